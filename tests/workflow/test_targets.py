"""What users ask Snakemake for: targets and rules that there are not, and parts of a run."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gvbsm import cli
from gvbsm.store.code import PACKAGE
from snakemake_logger_plugin_gvbsm.lines import unknown_stage_line

NIGHTLY = pytest.mark.nightly("snakemake")
SNAKEFILE = PACKAGE.parent / "workflow" / "Snakefile"
OWN_RULE = """
rule mine:
    output: "results/{dataset}/ipc{n}/mine.txt"
    shell: "echo mine > {output}"
"""


def snakemake(*arguments: str, snakefile: Path = SNAKEFILE) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "-s", str(snakefile), *arguments]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "GVBSM_DEVICE": "cpu"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def refused(*arguments: str, snakefile: Path = SNAKEFILE) -> str:
    """Our one line for a mistake."""
    done = snakemake("-n", *arguments, snakefile=snakefile)
    text = done.stdout + done.stderr
    assert done.returncode == 1 and "Exception" not in text and "Traceback" not in text, text
    (line,) = (line for line in text.splitlines() if line.startswith("gvbsm: "))
    return line


@pytest.mark.parametrize(
    ("target", "meant"),
    [
        ("results/tiny/ipc4/tabel.csv", "results/tiny/ipc4/table.csv"),
        pytest.param("results/tiny/compare.cvs", "results/tiny/compare.csv", marks=NIGHTLY),
        pytest.param("zzz", None, marks=NIGHTLY),
        pytest.param(
            "results/tiny/ipc4-sre2l/pictures/curve.png", "results/tiny/ipc4-sre2l/pictures/curves.png", marks=NIGHTLY
        ),
        pytest.param("tiny/ipc4", "results/tiny/ipc4/acc.json", marks=NIGHTLY),
        pytest.param("result/tiny/ipc4/images.png", "results/tiny/ipc4/images.png", marks=NIGHTLY),
        pytest.param("results/tiny/ipc4/zzz", None, marks=NIGHTLY),
        pytest.param("results/tiny", None, marks=NIGHTLY),
        pytest.param("al", "all", marks=NIGHTLY),
    ],
)
def test_a_target_that_no_rule_makes_is_one_line(target, meant, workspace):
    line = refused(target)
    assert f"target {target!r}: expected results/<dataset>/ipc<N>[-<recipe>] or a file of it (acc.json, settings.yaml, " in line
    assert (f"did you mean {meant!r}?" in line) if meant else "did you mean" not in line


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--until", "zzz"),
        pytest.param("--until", "sqeeze", marks=NIGHTLY),
        pytest.param("--forcerun", "sqeeze", marks=NIGHTLY),
        pytest.param("--omit-from", "sqeeze", marks=NIGHTLY),
    ],
)
def test_a_stage_that_there_is_not_is_one_line_with_the_stages(option, name, workspace):
    line = refused(option, name, "--", "results/tiny/ipc4/acc.json")
    hint = "did you mean 'squeeze'? " if name == "sqeeze" else ""
    assert line.startswith(f"gvbsm: {option}: unknown stage {name!r}; {hint}choose from prepare, check, squeeze, statistics, ")


def test_where_another_workflow_includes_ours_the_terminal_lists_the_stages():
    text = "MissingRuleException:\nNo rule to produce {} (if you use input functions make sure ...)."
    line = unknown_stage_line(text.format("sqeeze"))
    assert line.startswith(
        "gvbsm: expected a target or a stage, got 'sqeeze'; did you mean 'squeeze'? the stages are prepare, "
    )
    assert unknown_stage_line(text.format("results/x")) is None


@pytest.mark.parametrize("name", ["results/logs", pytest.param(".snakemake", marks=NIGHTLY)])
def test_a_file_in_the_place_of_a_folder_is_one_line(name, workspace):
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text("")
    assert refused("results/tiny/ipc4/acc.json") == f"gvbsm: {name}: expected a folder, got a file; move it away"


@pytest.mark.nightly("snakemake")
def test_a_folder_of_init_may_have_rules_of_its_own(workspace):
    shutil.rmtree("config")
    assert cli.main(["init", "."]) == 0
    snakefile = Path("workflow/Snakefile")
    with snakefile.open("a") as file:
        file.write(OWN_RULE)
    done = snakemake("-n", "results/digits/ipc4/mine.txt", snakefile=snakefile)
    assert done.returncode == 0 and re.search(r"^mine +1$", done.stdout + done.stderr, re.MULTILINE), done.stdout + done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["prepare", "squeeze", "--", "results/tiny/ipc4/acc.json"], "--until: squeeze needs prepare; name squeeze alone"),
        pytest.param(
            ["evaluate", "statistics", "--"], "--until: evaluate needs statistics; name evaluate alone", marks=NIGHTLY
        ),
        pytest.param(
            ["prepare", "results/tiny/ipc4/acc.json"],
            "expected stages, got results/tiny/ipc4/acc.json; put -- before targets",
            marks=NIGHTLY,
        ),
    ],
)
def test_what_until_cannot_do_is_one_line(arguments, message, workspace):
    """Snakemake starts nothing, and says that it has a bug."""
    assert message in refused("--until", *arguments)


GIVEN = {"name": "convnet", "label": "given", "weights": "mine.pth", "options": {"width": 4}}
CONVNET = {"name": "convnet", "options": {"width": 4}}
TEACHERS = {
    "kept epochs": ({"backbones": [CONVNET], "squeeze": {"epochs": 4, "keep_epochs": [1, 3, 4]}}, "squeeze", 3),
    "given weights first": ({"backbones": [CONVNET, GIVEN]}, "squeeze", 2),
    "both, until a later stage": (
        {"backbones": [CONVNET, GIVEN], "squeeze": {"epochs": 4, "keep_epochs": [1, 4]}},
        "statistics",
        3,
    ),
    "what only comes first, too": ({"backbones": [CONVNET]}, "check squeeze", 1),
}


@pytest.mark.parametrize("case", [name if name.startswith("both") else pytest.param(name, marks=NIGHTLY) for name in TEACHERS])
def test_until_a_stage_runs_all_of_its_jobs(case, workspace, edit_row):
    """Snakemake starts no job that waits for a job of a rule that --until names."""
    changes, rules, teachers = TEACHERS[case]
    edit_row(changes)
    done = snakemake("-n", "--until", *rules.split(), "--", "results/tiny/ipc4/acc.json")
    text = done.stdout + done.stderr
    assert done.returncode == 0 and "Out of jobs ready" not in text, text
    assert re.search(rf"^squeeze +{teachers}$", text, re.MULTILINE), text
