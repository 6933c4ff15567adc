"""One way to name a run: its folder, with or without a slash, or any file in it, for every command that takes a run."""

import shlex
import subprocess
from pathlib import Path

import pytest

from gvbsm import cli
from gvbsm.config.targets import Target, parse_target
from gvbsm.store.run import RUN_FILES

RUN = "results/tiny/ipc4"
NAMES = ["", "/", "/acc.json", "/report.html", "/pictures/curves.png"]


@pytest.mark.parametrize("name", NAMES + [f"/{file}" for file in RUN_FILES])
def test_every_name_is_of_the_same_run(name):
    target = parse_target(RUN + name)
    assert (target.dataset, target.ipc, target.recipe, target.run) == ("tiny", 4, None, "ipc4")
    assert parse_target(f"{Path.cwd()}/{RUN}-edc{name}").recipe == "edc"
    assert str(target.accuracies) == f"{RUN}/acc.json"


@pytest.mark.parametrize("command", ["explain", "estimate", "status"])
@pytest.mark.parametrize("folder", ["/else where", "sub"])
def test_a_run_of_another_folder_is_refused(command, folder, workspace, capsys):
    """It would be told of the run of that name here."""
    assert cli.main([command, f"{folder}/{RUN}"]) == 2
    line = capsys.readouterr().err
    there = f"change to that one first: cd {shlex.quote(folder)}\n"
    assert line.startswith(f"gvbsm: target '{folder}/{RUN}': expected a path in this working") and line.endswith(there)


def test_results_may_be_a_link(workspace):
    (workspace / "disk").mkdir()
    (workspace / "results").symlink_to("disk")
    assert parse_target(f"{workspace}/{RUN}") == parse_target(RUN)


def test_a_run_that_is_not_there_is_made_in_its_folder(workspace, capsys):
    for folder, start in ((workspace / "my work", f"cd '{workspace}/my work' && "), (Path(), "")):
        assert cli.main(["report", str(folder / RUN)]) == 2
        assert capsys.readouterr().err.endswith(f"; make it with: {start}snakemake --cores all {RUN}/acc.json\n")


def test_the_file_that_is_asked_for_is_known():
    assert parse_target(f"{RUN}/pictures.txt").file == "pictures.txt"
    assert parse_target(RUN) == Target("tiny", 4)


@pytest.mark.parametrize("command", ["explain", "estimate", "status"])
def test_commands_before_the_run_is_made(command, workspace, capsys):
    outputs = set()
    for name in NAMES:
        assert cli.main([command, RUN + name]) == 0
        outputs.add(capsys.readouterr().out)
    assert len(outputs) == 1


@pytest.mark.parametrize("name", NAMES)
def test_commands_when_the_run_is_made(name, published_run, capsys):
    assert cli.main(["compare", RUN + name]) == 0 and "tiny/ipc4" in capsys.readouterr().out
    assert cli.main(["report", RUN + name]) == 0 and capsys.readouterr().out == f"{RUN}/report.html\n"
    exported = f"exported{NAMES.index(name)}"
    assert cli.main(["export", RUN + name, "--to", "imagefolder", "--out", exported]) == 0


@pytest.mark.nightly("snakemake")
def test_snakemake_says_which_file_to_ask_for(run_snakemake):
    done: subprocess.CompletedProcess[str] = run_snakemake("-n", target=f"{RUN}/")
    output = done.stdout + done.stderr
    assert done.returncode == 1 and "Traceback" not in output
    assert output.splitlines()[-1] == f"gvbsm: {RUN}: expected a file of it; run snakemake --cores all {RUN}/acc.json"
