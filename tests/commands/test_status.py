"""`gvbsm status`: how far runs are, by what lies on the disk."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import filelock
import pytest
import yaml

from gvbsm import cli
from gvbsm.commands.status import status
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import write_plans
from gvbsm.pipeline.stage import Artifact
from gvbsm.store.code import PACKAGE
from gvbsm.store.locks import lock_file
from gvbsm.store.plans import STORE, target_file
from gvbsm.store.progress import Record, progress_file, read_progress, write_progress
from gvbsm.store.receipts import receipt_path

TARGET = "results/tiny/ipc4/acc.json"


@pytest.fixture
def configured(workspace):
    """`tiny` is the one configured target."""
    Path("config/config.yaml").write_text(yaml.safe_dump({"targets": [TARGET], "data_root": "data"}))


def status_lines(capsys, *arguments: str) -> list[str]:
    assert cli.main(["status", *arguments]) == 0
    return capsys.readouterr().out.splitlines()


def pretend(artifact: Artifact, seconds: float = 60.0) -> None:
    """Files that stand for an artifact."""
    out = STORE / artifact.path
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("")
    receipt_path(out).write_text(json.dumps({"seconds": seconds}))


def pretend_all() -> None:
    """Files that stand for all of a run."""
    planned = plan("tiny", 4)
    for artifact in planned[:-1]:
        pretend(artifact)
    Path(TARGET).parent.mkdir(parents=True)
    Path(TARGET).write_text(json.dumps({"key": planned[-1].key}))


def record(artifact: Artifact, **changes) -> Record:
    now = time.time()
    initial = Record(artifact.stage, artifact.name, artifact.key, socket.gethostname(), 99999999, None, now - 100, now)
    counts = {"done": 300, "total": 1000, "rate": 2.5, "images_per_second": 125.0, "seconds_left": 280.0}
    return replace(initial, **{**counts, "values": {"loss": 0.123456, "top1": 98.76543}, **changes})


def of_stage(stage: str) -> Artifact:
    return next(artifact for artifact in plan("tiny", 4) if artifact.stage == stage)


def test_nothing_is_made(configured, capsys):
    lines = status_lines(capsys)
    assert lines[0] == f"{TARGET}: 0 of 21 jobs made, 0 running, 21 to do"
    assert [line.split() for line in lines[1:5]] == [
        ["stage", "jobs", "made", "running", "to", "do"],
        ["prepare", "1", "0", "0", "1"],
        ["check", "1", "0", "0", "1"],
        ["squeeze", "3", "0", "0", "3"],
    ]
    assert len(lines) == 2 + 8
    assert not Path("results").exists(), "it only reads"


def test_half_and_the_whole_of_a_run(published_run, capsys):
    assert status_lines(capsys, TARGET) == [f"{TARGET}: all {len(published_run)} jobs made"]
    Path(TARGET).unlink()
    for artifact in published_run:
        if artifact.stage == "evaluate":
            receipt_path(STORE / artifact.path).unlink()  # half of it is not it
    lines = status_lines(capsys, TARGET)
    assert re.fullmatch(rf"{TARGET}: 14 of 21 jobs made, 0 running, 7 to do(, .*)?", lines[0])
    assert "  evaluate        6     0        0      6" in lines and "  relabel         4     4        0      0" in lines


def test_the_time_that_is_left(configured, capsys):
    """By what jobs of the same stage took, divided among as many as run."""
    squeeze = [artifact for artifact in plan("tiny", 4) if artifact.stage == "squeeze"]
    pretend(squeeze[0], seconds=600)
    assert status_lines(capsys)[0].endswith("20 to do, at least 20 min left (one after another)")
    for artifact, left in zip(squeeze[1:], (400.0, 200.0), strict=True):
        write_progress(progress_file(artifact.key), record(artifact, host="elsewhere", seconds_left=left))
    assert status_lines(capsys)[0].endswith("2 running, 18 to do, at least 5 min left (2 at a time)")
    for artifact in plan("tiny", 4)[:-1]:
        pretend(artifact, seconds=600)
    receipt_path(STORE / squeeze[0].path).unlink()
    assert status_lines(capsys)[0].endswith("about 10 min left (one after another)")


def test_a_job_with_its_lock(configured, capsys):
    artifact = of_stage("recover")
    progress_file(artifact.key).parent.mkdir(parents=True)
    with filelock.FileLock(lock_file(artifact.key)):
        assert status_lines(capsys)[-1] == f"  recover {artifact.name}: running, without reported progress"
        write_progress(progress_file(artifact.key), record(artifact, slurm_job="77", values={"loss": float("nan"), "ce": 0.5}))
        expected = f"  recover {artifact.name}: 300/1000, 2.5/s, 125 images/s, 4.67 min left, loss not finite, ce 0.5, on "
        assert status_lines(capsys)[-1] == f"{expected}{socket.gethostname()} (SLURM job 77)"
        json.loads(progress_file(artifact.key).read_text(), parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
        progress_file(artifact.key).write_text('{"stage": "recover"}')
        assert status_lines(capsys)[-1].endswith("running, without reported progress")
        assert status_lines(capsys)[0].endswith(" 1 running, 20 to do")


def test_a_job_that_was_killed(configured, capsys):
    artifact = of_stage("squeeze")
    write_progress(progress_file(artifact.key), record(artifact, updated=time.time() - 7200))
    place = f"on {socket.gethostname()} (process 99999999); ask for the run again to go on"
    assert status_lines(capsys)[-1] == f"  squeeze {artifact.name}: 300/1000, killed 2 h ago {place}"
    write_progress(progress_file(artifact.key), record(artifact, ended="stopped by SIGTERM"))
    assert status_lines(capsys)[-1] == f"  squeeze {artifact.name}: 300/1000, stopped by SIGTERM 0 s ago {place}"
    assert status_lines(capsys)[0].endswith(" 0 running, 21 to do")
    pretend(artifact)
    assert not any(artifact.name in line for line in status_lines(capsys)), "it was made after all"


@pytest.mark.parametrize(
    ("silence", "rate", "runs"), [(5, 2.5, True), (300, 2.5, True), (700, 2.5, False), (700, 0.005, True), (2000, 0.005, False)]
)
def test_a_job_of_another_machine(silence, rate, runs, configured, capsys):
    """Its lock cannot be relied on: it runs if it has written its progress lately, for its own pace."""
    artifact = of_stage("squeeze")
    write_progress(progress_file(artifact.key), record(artifact, host="node7", rate=rate, updated=time.time() - silence))
    last = status_lines(capsys)[-1]
    assert ("on node7 (process 99999999)" in last and "killed" not in last) == runs
    assert ("last heard of" in last) == (runs and silence > 30)


def test_which_runs_are_shown(configured, capsys):
    """Without targets: the configured one, and all that have a plan and can still be planned."""
    for ipc in (2, 4, 6):
        write_plans(plan("tiny", ipc), Path(f"results/tiny/ipc{ipc}/acc.json"))
    write_plans(plan("tiny", 4, "sre2l"), Path("results/tiny/ipc4-sre2l/acc.json"))
    gone = plan("digits", 10)
    write_plans(gone, Path("results/digits/ipc10/acc.json"))
    file = target_file(gone[-1].key)
    file.write_text(file.read_text().replace('"dataset": "digits"', '"dataset": "gone"'))
    (file.parent.parent / "not_a_plan").mkdir()
    runs = [f"results/tiny/{run}/acc.json" for run in ("ipc4", "ipc2", "ipc4-sre2l", "ipc6")]
    assert [line.partition(":")[0] for line in status_lines(capsys) if line.startswith("results/")] == runs
    assert [line.partition(":")[0] for line in status_lines(capsys, runs[1]) if line.startswith("results/")] == [runs[1]]
    assert status_lines(capsys, "results/tiny/ipc2/table.csv") == status_lines(capsys, runs[1])
    other = plan("tiny", 50)[-2]
    write_progress(progress_file(other.key), record(other, host="node7"))
    assert status_lines(capsys)[-2:][0] == "other jobs, of no run above" and other.name in status_lines(capsys)[-1]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["results/tinny/ipc4/acc.json"], r"unknown data set 'tinny'; did you mean 'tiny'"),
        (["tiny"], r"target 'tiny': expected results/<dataset>/ipc<N>\[-<recipe>\] or a file of it"),
        (["results/tiny/compare.csv"], r"expected the runs to compare, got none"),
        (["tiny/comapre.csv"], r"or results/<name>/compare\.csv; did you mean 'results/tiny/compare\.csv'\?"),
        (["results/compare.csv"], r"or results/<name>/compare\.csv; correct the path"),
        (["tiny/compare.csv"], r"did you mean 'results/tiny/compare\.csv'\?"),
        (["/nowhere/results/tiny/compare.csv"], r"change to that one first: cd /nowhere$"),
        (["--watch", TARGET], rf"--watch: expected seconds, got '{TARGET}'; put targets before it"),
        (["--watch", "0"], r"--watch: expected 0\.1 to 86400 seconds, got 0"),
        (["--watch", "nan"], r"--watch: expected 0\.1 to 86400 seconds, got nan"),
    ],
)
def test_mistakes(arguments, expected, configured, capsys):
    assert cli.main(["status", *arguments]) == 2
    err = capsys.readouterr().err
    assert err.startswith("gvbsm: ") and err.count("\n") == 1 and re.search(expected, err), err


def test_a_watch_that_is_no_terminal_says_what_is_new(configured, capsys):
    timer = threading.Timer(0.5, pretend_all)
    timer.start()
    lines = status_lines(capsys, TARGET, "--watch", "0.1")
    timer.join()
    assert lines[0] == f"{TARGET}: 0 of 21 jobs made, 0 running, 21 to do"
    assert lines[-1] == f"{TARGET}: all 21 jobs made"
    assert len(lines) <= 4 and not any("\x1b" in line for line in lines)


def test_a_watch_on_a_terminal_draws_over_itself(configured):
    ours, theirs = pty.openpty()
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "COLUMNS": "60", "LINES": "6"}
    command = [sys.executable, "-m", "gvbsm", "status", TARGET, "--watch", "0.1"]
    watching = subprocess.Popen(command, stdout=theirs, env=environment)
    try:
        shown = os.read(ours, 4096).decode()
        pretend(of_stage("prepare"))
        while "\x1b[" not in shown:
            shown += os.read(ours, 4096).decode()
        assert watching.poll() is None
        pretend_all()
        assert watching.wait(60) == 0
    finally:
        watching.kill()
        watching.wait()
        os.close(theirs)
        os.close(ours)
    assert "\x1b[5F\x1b[J" in shown and "1 of 21 jobs made" in shown.partition("\x1b[J")[2]
    assert "... and 6 lines more" in shown
    assert all(len(line) < 60 for line in re.sub(r"\x1b\[\d*[FJ]", "", shown).splitlines())


def test_ctrl_c_ends_a_watch(configured, monkeypatch, capsys):
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("time.sleep", interrupt)
    assert status_lines(capsys, TARGET, "--watch")[0].startswith(f"{TARGET}: 0 of 21 jobs made")


def wait_for(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.nightly("processes")
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, None])
def test_a_real_stage(end, configured, edit_row, make_up_to, capsys):
    """It runs, then it is killed or stopped or ends well, and status says so."""
    edit_row({"squeeze": {"epochs": 4000 if end else 30}})
    planned = make_up_to("prepare")
    write_plans(planned, Path(TARGET))
    artifact = of_stage("squeeze")
    file = progress_file(artifact.key)
    command = [sys.executable, "-m", "gvbsm", "squeeze", "--spec", f"results/.plan/{artifact.key}.json"]
    command += ["--out", str(STORE / artifact.path), "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "SLURM_JOB_ID": "123", "OMP_NUM_THREADS": "1"}
    running = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: (seen := read_progress(file)) is not None and seen.total is not None, running)
    if end:
        wait_for(lambda: (seen := read_progress(file)) is not None and seen.done > 0, running)
        (line,) = [line for line in status([TARGET]).splitlines() if line.startswith(f"  squeeze {artifact.name}: ")]
        numbers = r"\d+/4000, \S+/s, \S+ images/s, [\d.]+ (s|min|h) left, loss \S+"
        assert re.fullmatch(rf".*: {numbers}, on {socket.gethostname()} \(SLURM job 123\)", line)
        assert "1 running" in status([TARGET])
        running.send_signal(end)
    running.communicate(timeout=120)
    last = status([TARGET]).splitlines()[-1]
    if end is None:
        assert running.returncode == 0 and not file.exists() and artifact.name not in last
    else:
        assert running.returncode != 0
        how = "killed" if end == signal.SIGKILL else "stopped by SIGTERM"
        assert re.search(rf"squeeze {artifact.name}: \d+/4000, {how} \d+ s ago on ", last)
