"""A killed stage goes on from its checkpoint and ends in the same bytes."""

import importlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gvbsm.errors import Interrupted
from gvbsm.method.memory import RENDERED
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import write_plans
from gvbsm.runtime import checkpoints
from gvbsm.store.files import file_hash, load_tensors
from gvbsm.store.job import Job
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt
from tests.tiny import ONE_STUDENT

STAGES = ["squeeze", "statistics", "recover", "relabel", "evaluate"]


class Killed(Exception):
    """Stands for kill -9: nothing after it runs, no handler, no saving."""


def job_of(artifact, seconds: float) -> Job:
    folder = Path("results/.checkpoints") / artifact.key
    return Job(
        spec=artifact.spec,
        out=STORE / artifact.path,
        store=STORE,
        device="cpu",
        checkpoints=folder,
        checkpoint_seconds=seconds,
    )


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("kind", ["killed", "signalled"])
def test_resumed_ends_in_the_same_bytes(stage, kind, published_run, monkeypatch):
    artifact = next(artifact for artifact in published_run if artifact.stage == stage)
    expected = file_hash(STORE / artifact.path)
    attempts = run_in_pieces(artifact, kind, monkeypatch)
    assert file_hash(STORE / artifact.path) == expected
    assert read_receipt(STORE / artifact.path)["seconds"] >= 100 * attempts, "the time of all processes counts"
    assert not (Path("results/.checkpoints") / artifact.key).exists()


@pytest.mark.parametrize("accumulate", [pytest.param(1, marks=pytest.mark.nightly("stages")), 3])
def test_students_beside_their_teachers_resume_to_the_same_bytes(accumulate, published_run, edit_row, make_up_to, monkeypatch):
    """Wherever they begin, teachers see the same views together."""
    monkeypatch.setitem(RENDERED, "cpu", 2 * 16 * 8 * 8)  # two batches
    edit_row({"relabel": {"online": True}} | ONE_STUDENT)
    edit_row({"evaluate": {"accumulate": accumulate, "seeds": [0, 1]}})
    artifact = next(artifact for artifact in make_up_to("evaluate") if artifact.stage == "evaluate")
    expected = file_hash(STORE / artifact.path)
    run_in_pieces(artifact, "killed", monkeypatch)
    assert file_hash(STORE / artifact.path) == expected


def test_labels_go_on_where_other_numbers_of_views_are_rendered_together(
    published_run, edit_row, make_up_to, make_artifact, monkeypatch
):
    """As on another device. Every view is labelled once; what networks make of larger batches may be rounded otherwise."""
    edit_row({"relabel": {"batch_size": 8, "coding": {"values": "float32"}}})
    artifact = next(artifact for artifact in make_up_to("relabel") if artifact.stage == "relabel")
    expected, summary = load_tensors(STORE / artifact.path), read_receipt(STORE / artifact.path)["summary"]
    monkeypatch.setitem(RENDERED, "cpu", 1)
    kill_once(artifact, 3, monkeypatch)  # of five groups, a batch each
    monkeypatch.setitem(RENDERED, "cpu", 2**20)
    importlib.import_module("gvbsm.stages.relabel").run(job_of(artifact, seconds=0))
    got = load_tensors(STORE / artifact.path)
    assert got[1] == expected[1]
    torch.testing.assert_close(got[0]["values"], expected[0]["values"], rtol=1e-4, atol=1e-5)
    assert read_receipt(STORE / artifact.path)["summary"] == summary


def kill_once(artifact, last: int, monkeypatch) -> None:
    """Begin to make an artifact anew by a job that is killed right after its tick of this number."""
    (STORE / artifact.path).unlink()
    tick, ticks = checkpoints.Checkpoint.tick, 0

    def stopping(self, state):
        nonlocal ticks
        ticks += 1
        tick(self, state)
        if ticks == last:
            raise Killed

    with monkeypatch.context() as until_killed, pytest.raises(Killed):
        until_killed.setattr(checkpoints.Checkpoint, "tick", stopping)
        importlib.import_module(f"gvbsm.stages.{artifact.stage}").run(job_of(artifact, seconds=0))
    assert ticks == last


def run_in_pieces(artifact, kind: str, monkeypatch) -> int:
    """Make an artifact anew by a job that every second tick ends: killed right before a save, or signalled at it.

    Return how often the job was started.
    """
    (STORE / artifact.path).unlink()
    run = importlib.import_module(f"gvbsm.stages.{artifact.stage}").run
    tick = checkpoints.Checkpoint.tick
    stops = 0

    def stopping(self, state):
        nonlocal stops
        stops += 1
        if stops % 2 == 0:
            if kind == "killed":
                raise Killed
            checkpoints._received.append(15)
        tick(self, state)

    monkeypatch.setattr(checkpoints.Checkpoint, "tick", stopping)
    attempts = 0
    while True:
        attempts += 1
        assert attempts < 200
        job = job_of(artifact, seconds=0)
        job.started -= 100  # pretend that it has taken that long already
        try:
            run(job)
            break
        except (Killed, Interrupted):
            checkpoints._received.clear()
            assert not (STORE / artifact.path).exists()
    assert attempts > 1, "the stage was never stopped"
    return attempts


@pytest.mark.nightly("compile")
@pytest.mark.parametrize("early_late", [None, {"rounds": 2}])
def test_compiled_and_resumed_ends_in_the_same_bytes(early_late, published_run, edit_row, make_artifact, monkeypatch):
    """One graph for each number of images that take part."""
    edit_row({"recover": {"compile": True, "early_late": early_late}})
    artifact = next(artifact for artifact in plan("tiny", 4) if artifact.stage == "recover")
    expected = file_hash(make_artifact(artifact))
    if set(read_receipt(STORE / artifact.path)["summary"]["passes"].values()) != {"compiled"}:
        pytest.skip("torch.compile needs a C++ compiler")
    kill_once(artifact, 8, monkeypatch)  # in the second of two batches
    assert file_hash(make_artifact(artifact)) == expected


def test_a_damaged_checkpoint_means_starting_over(published_run, make_artifact):
    artifact = next(artifact for artifact in published_run if artifact.stage == "squeeze")
    expected = file_hash(STORE / artifact.path)
    folder = Path("results/.checkpoints") / artifact.key
    folder.mkdir(parents=True)
    (folder / "state.safetensors").write_bytes(b"half of a fi")
    assert file_hash(make_artifact(artifact)) == expected


@pytest.mark.nightly("processes")
def test_real_signals_to_a_real_process(published_run, edit_row, make_artifact):
    """kill -9, then SIGTERM, then to the end: the bytes of a run that nobody stopped."""
    edit_row({"squeeze": {"epochs": 12}})
    planned = plan("tiny", 4)
    write_plans(planned, Path("results/tiny/ipc4/acc.json"))
    artifact = next(artifact for artifact in planned if artifact.stage == "squeeze")
    expected = file_hash(make_artifact(artifact))
    (STORE / artifact.path).unlink()
    command = [sys.executable, "-m", "gvbsm", "squeeze", "--spec", f"results/.plan/{artifact.key}.json"]
    command += ["--out", str(STORE / artifact.path), "--device", "cpu", "--checkpoint-seconds", "0"]
    saved = Path("results/.checkpoints") / artifact.key / "state.safetensors"
    for number, status in ((signal.SIGKILL, -9), (signal.SIGTERM, 143)):
        before = saved.stat().st_mtime_ns if saved.exists() else 0
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (saved.exists() and saved.stat().st_mtime_ns > before):
            time.sleep(0.01)
        process.send_signal(number)
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == status, stderr
        assert not (STORE / artifact.path).exists()
        assert saved.exists()
    assert "interrupted by SIGTERM, state saved; run the same command to go on" in stderr
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert file_hash(STORE / artifact.path) == expected
