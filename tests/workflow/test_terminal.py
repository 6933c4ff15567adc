"""What snakemake prints: a line per finished job, failures with their cause and log, one line after Ctrl-C, no keys."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from gvbsm.pictures.table import accuracy_lines
from gvbsm.store.code import PACKAGE
from gvbsm.store.receipts import write_receipt
from snakemake_logger_plugin_gvbsm.jobs import Job, result_of, without_keys
from snakemake_logger_plugin_gvbsm.lines import failure_line, finished_lines, is_bookkeeping, running_lines

KEY = "0123456789"
SNAKEFILE = """
rule all:
    input: expand("results/store/squeeze/{name}-0123456789.safetensors", name=config["names"])

rule squeeze:
    output: "results/store/squeeze/{name}-0123456789.safetensors"
    log: "results/logs/squeeze/{name}-0123456789.log"
    shell: "bash {wildcards.name}.sh {output} 2> {log}"
"""


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start snakemake on jobs that are scripts: {name: script}; it is the head of a group of processes of its own."""

    def run(scripts: dict[str, str], *arguments: str) -> subprocess.Popen[str]:
        (tmp_path / "Snakefile").write_text(SNAKEFILE)
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({"names": list(scripts)}))
        for name, script in scripts.items():
            (tmp_path / f"{name}.sh").write_text(script)
        profile = PACKAGE.parent / "workflow" / "profiles" / "default"
        command = [sys.executable, "-m", "snakemake", "--cores", "2", "--workflow-profile", str(profile), *arguments]
        command += ["--configfile", "config.yaml"]
        environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent)}
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=pipe, stderr=pipe, text=True, start_new_session=True
        )

    return run


def finish(process: subprocess.Popen[str]) -> tuple[int, list[str], str]:
    """Exit status, lines of stderr without the one in which Snakemake names its profile, stdout."""
    out, err = process.communicate(timeout=120)
    return process.returncode, [line for line in err.splitlines() if not line.startswith("Using workflow specific")], out


def test_a_line_per_job(start):
    status, lines, _ = finish(start({"first": "touch $1", "second": "echo 'my/data: left out, hidden: 3' >&2; touch $1"}))
    assert status == 0
    assert lines[0].startswith("3 jobs: 2 squeeze. ")
    finished = sorted(line for line in lines[1:] if line.startswith("["))
    assert [re.match(r"\[[12]/3\] squeeze (\w+) ", line)[1] for line in sorted(finished, key=lambda line: line[5:])] == [
        "first",
        "second",
    ]
    assert "    my/data: left out, hidden: 3" in lines
    assert re.fullmatch(r"3 of 3 jobs done in \d+ s", lines[-1])
    assert len(lines) == 5, "a line of Snakemake's own is shown"


def test_a_failure_is_one_line_with_its_error_and_log(start):
    scripts = {
        "said": "echo 'gvbsm: data: expected 3, got 4; correct it' >&2; exit 2",
        "bug": "echo 'Traceback (most recent call last):' >&2; echo 'ValueError: of some kind' >&2; exit 1",
        "silent": "exit 137",
        "good": "touch $1",
    }
    status, lines, _ = finish(start(scripts, "--keep-going"))
    failures = {line.split()[2]: line for line in lines if " failed: " in line}
    assert status == 1 and set(failures) == {"said", "bug", "silent"}
    logs = {name: f"; log: results/logs/squeeze/{name}-{KEY}.log" for name in scripts}
    assert failures["said"] == f"gvbsm: squeeze said failed: data: expected 3, got 4; correct it{logs['said']}"
    assert failures["bug"] == f"gvbsm: squeeze bug failed: ValueError: of some kind{logs['bug']}"
    assert "it left no error, as when" in failures["silent"]
    assert lines[-1].startswith("gvbsm: 1 of 5 jobs done in ") and ", 3 failed; " in lines[-1]
    assert len(lines) == 6


@pytest.mark.nightly("snakemake")
def test_a_job_that_is_tried_again_says_so(start):
    """As a job on a cluster that its scheduler has ended."""
    script = "if test -e tried; then touch $1; else touch tried; echo 'gvbsm: the node is gone' >&2; exit 1; fi"
    status, lines, _ = finish(start({"first": script}, "--retries", "1"))
    assert status == 0
    failed = next(i for i, line in enumerate(lines) if line.startswith("gvbsm: squeeze first failed: the node is gone; log: "))
    assert lines[failed + 1] == "gvbsm: squeeze first is tried again"
    assert re.match(r"\[1/2\] squeeze first ", lines[failed + 2])


def test_ctrl_c_ends_with_one_line(start, tmp_path):
    trap = "trap 'echo gvbsm: interrupted by SIGINT, state saved >&2; exit 130' INT; touch begun"
    trap += "; sleep 60 > /dev/null 2>&1 & wait"  # it lives on, and must not hold the pipes that are read to their end
    process = start({"quick": "touch $1", "long": trap})
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun").exists() or not list(tmp_path.rglob("quick-*.safetensors")):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    time.sleep(1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    status, lines, _ = finish(process)
    assert status != 0
    assert lines[-1] == (
        "gvbsm: interrupted: 1 of 3 jobs are done and kept, state saved of squeeze long; run the same command to go on"
    )
    assert len(lines) == 3, lines


@pytest.mark.nightly("snakemake")
def test_a_mistake_in_the_workflow_and_other_messages_are_shown(start):
    status, lines, _ = finish(start({"first": "touch $1"}, "results/nothing.txt"))
    assert status == 1 and any("MissingRuleException" in line for line in lines)
    assert finish(start({"first": "touch $1"}))[0] == 0
    assert finish(start({"first": "touch $1"}))[1] == ["Nothing to be done (all requested files are present and up to date)."]


@pytest.mark.nightly("snakemake")
@pytest.mark.parametrize("option", ["-n", pytest.param("--printshellcmds", marks=pytest.mark.nightly("snakemake"))])
def test_snakemake_s_own_text_where_it_is_asked_for(start, option):
    status, lines, out = finish(start({"first": "touch $1"}, option))
    text = "\n".join([*lines, out])
    assert status == 0 and "Job stats:" in text and re.search(r"^squeeze +1$", text, re.MULTILINE)
    assert ("This was a dry-run" in text) == (option == "-n") and not re.search(r"^\[1/2\]", text, re.MULTILINE)


def stored(folder: Path, summary: dict[str, object]) -> Job:
    """A finished job whose artifact has a receipt with this summary."""
    artifact = Path("results/store/recover") / f"digits-convnet-{KEY}.csv"
    artifact.parent.mkdir(parents=True)
    artifact.write_text("x" * 2000)
    receipt = {"spec": {}, "inputs": {}, "summary": summary, "seconds": 200.0, "images": 0, "device": "cpu"}
    write_receipt(artifact, receipt)
    log = folder / "x.log"
    log.write_text(f"recover digits-convnet-{KEY}: 20/60, 1.3/s, 31 s left, loss 0.1\n")
    return Job("gvbsm_recover", (str(artifact),), (str(log),), 0.0, 5.0)


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        ({"top1": 98.888}, "top-1 98.89 %, 2 kB"),
        ({"top1": {"mean": 95.2, "std": 0.8, "runs": [1, 2]}, "views": 6000}, "top-1 95.20 ± 0.80 %, 6,000 views, 2 kB"),
        ({"top1": {"mean": 95.2, "std": None, "runs": [1]}}, "top-1 95.20 %, 2 kB"),
        ({"train_images": 50000, "test_images": 10000}, "50,000 training and 10,000 test images, 2 kB"),
        ({"images": 50, "epochs": 3}, "50 images, 2 kB"),
        ({"networks": 1, "images": 1, "layers": 1, "views": 1}, "1 network, 1 image, 1 layer, 1 view, 2 kB"),
        ({"top1": None}, "2 kB"),
    ],
)
def test_what_a_job_found(summary, expected, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = stored(tmp_path, summary)
    assert result_of(job.receipt()) == expected
    (line,) = finished_lines(job, 7, 120)
    assert line.startswith("[  7/120] recover digits-convnet ") and "3.33 min" in line and line.endswith(expected)
    assert KEY not in line
    Path(job.log[0]).write_text(f"recover digits-convnet-{KEY}: 60/60, 1.3/s, loss 0.1\n")
    assert running_lines([job]) == ["    recover digits-convnet: 60/60"]
    Path(job.log[0]).write_text(f"recover digits-convnet-{KEY}: 20/60, 1.3/s, 31 s left, loss 0.1\n")
    assert running_lines([job] * 5) == ["    recover digits-convnet: 20/60, 1.3/s, 31 s left"] * 3 + ["    and 2 more"]


def test_a_job_outside_the_store_and_one_without_a_log():
    job = Job("publish", ("results/digits/ipc10/acc.json", "results/digits/ipc10/table.csv"), (), 0.0, 4.0)
    assert finished_lines(job, 1, 2)[0].split() == ["[1/2]", "publish", "digits/ipc10", "4", "s", job.output[0]]
    assert failure_line(job).startswith("gvbsm: publish digits/ipc10 failed: it left no error")
    assert finished_lines(Job("all", (), (), 0.0, 1.0), 2, 2) == []


def test_bookkeeping_is_what_is_listed():
    for text in ("Building DAG of jobs...", "", "Select jobs to execute..."):
        assert is_bookkeeping(text)
    for text in ("Nothing to be done (all requested files are present and up to date).", "Unlocked working directory."):
        assert not is_bookkeeping(text)
    assert without_keys(f"a-{KEY}.csv b-{KEY}: 1") == "a.csv b: 1"


def accuracies(stds: list[float | None], baselines: list[str], headline: str = "last") -> dict:
    def result(mean: float, std: float | None) -> dict:
        spread = {"mean": mean, "std": std, "runs": [mean] * (1 if std is None else 3)}
        return {"top1": spread, "best_top1": spread | {"mean": mean + 1}}

    means = {"random_soft": 90.5, "random_hard": 80.0}
    return {
        "dataset": "digits",
        "ipc": 10,
        "recipe": None,
        "students": {"a": result(92.0, stds[0])},
        "baselines": {kind: {"a": result(means[kind], stds[1])} for kind in baselines},
        "provenance": {"spec": {"headline": headline}},
    }


@pytest.mark.parametrize(
    ("stds", "baselines", "ending"),
    [
        ([0.3, 0.4], ["random_soft", "random_hard"], "80.00 ± 0.40 +1.50 ± 0.50"),
        ([None, None], ["random_soft"], "90.50 +1.50"),
        ([0.3, 0.4], ["random_hard"], "+12.00 ± 0.50"),
        ([0.3, None], [], "92.00 ± 0.30"),
    ],
)
def test_the_table_has_margins_and_no_none(stds, baselines, ending):
    title, head, row = accuracy_lines(accuracies(stds, baselines))
    assert " ".join(row.split()).endswith(ending) and "None" not in "".join([title, head, row])
    assert ("margin over random real" in head) == bool(baselines)
    assert ("one seed" in title) == (stds[0] is None)
    best = accuracy_lines(accuracies(stds, baselines, "best"))
    assert "93.00" in best[2] and "best epoch" in best[0]


@pytest.mark.nightly("snakemake")
def test_a_whole_run_is_short(published_run, run_snakemake):
    """What people read of a run, beginning without results."""
    done = run_snakemake("--cores", "2", "--forceall", target="results/tiny/ipc4/report.html")
    lines = (done.stdout + done.stderr).splitlines()
    assert done.returncode == 0 and len(lines) <= 60, done.stderr
    assert len([line for line in lines if line.startswith("[")]) == len(published_run) + 1  # and the report
    assert not re.search(r"-[0-9a-f]{10}\b|std|None", "\n".join(lines))
    top1 = json.loads(Path("results/tiny/ipc4/acc.json").read_text())["students"]["convnet"]["top1"]["mean"]
    assert any(line.startswith("convnet") and f"{top1:.2f}" in line for line in lines)
