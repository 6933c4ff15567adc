"""What a running job says of itself: its progress file, its live line, images per second."""

import io
import os
import sys
from pathlib import Path

import pytest
from pydantic import Field

from gvbsm import cli
from gvbsm.errors import Interrupted, UserError
from gvbsm.pipeline.registry import write_plans
from gvbsm.pipeline.scale import images_per_step
from gvbsm.runtime import checkpoints, watching
from gvbsm.runtime.progress import Progress
from gvbsm.runtime.watching import watched
from gvbsm.store.job import Job
from gvbsm.store.plans import STORE
from gvbsm.store.progress import read_progress
from gvbsm.store.receipts import read_receipt
from gvbsm.store.spec import Inputs, Spec

TARGET = Path("results/tiny/ipc4/acc.json")


class SomeInputs(Inputs):
    data: str = "prepare/x.safetensors"


class SomeSpec(Spec):
    """Of a stage that has several seeds."""

    seeds: list[int] = Field(default=[0])
    inputs: SomeInputs = SomeInputs()


def squeeze_job(**changes) -> Job:
    out = Path("results/store/squeeze/digits-net-0123456789.safetensors")
    job = Job(spec=SomeSpec(stage="squeeze", **changes), out=out, store=STORE)
    job.receipts["prepare/x.safetensors"] = {"summary": {"train_images": 50}}
    return job


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """The seconds that have gone by."""
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_a_progress_file_from_the_first_step_to_the_last(tmp_path, clock, capsys):
    file = tmp_path / "checkpoints" / "0123456789.progress.json"
    job = squeeze_job()
    with watched(job, file, None, lambda steps: images_per_step(lambda spec, scale: 10 * scale.training_images, job, steps)):
        started = read_progress(file)
        assert (started.stage, started.name, started.pid, started.total) == ("squeeze", "digits-net", os.getpid(), None)
        progress = Progress("squeeze digits-net-0123456789", 10, done=2)
        assert (read_progress(file).done, read_progress(file).total, read_progress(file).rate) == (2, 10, None)
        clock[0] = 2.0
        progress.step(loss=0.5)
        seen = read_progress(file)
        assert (seen.done, seen.rate, seen.images_per_second, seen.seconds_left) == (3, 0.5, 25.0, 14.0)
        assert seen.values == {"loss": 0.5}
        clock[0] = 2.9
        progress.step(loss=0.25)
        assert read_progress(file).done == 3, "it is not written more often than once a second"
        clock[0] = 3.1
        checkpoints.Checkpoint(None, 1e9).tick(dict)
        assert read_progress(file).done == 4, "a tick within a long epoch writes what is known"
    assert not file.exists() and watching.current() is None
    assert "4/10" not in capsys.readouterr().err, "a log has a line every 15 seconds"


def test_a_count_for_every_seed(tmp_path, clock):
    """Steps of earlier processes count as done; the speed is that of this process alone."""
    file = tmp_path / "x.progress.json"
    with watched(squeeze_job(seeds=[0, 1, 2]), file):
        Progress("squeeze digits-net-0123456789 seed 0", 10, done=10)
        progress = Progress("squeeze digits-net-0123456789 seed 1", 10, done=0)
        progress.done += 4  # as recover does
        clock[0] = 2.0
        progress.step()
        seen = read_progress(file)
        assert (seen.done, seen.total, seen.rate, seen.seconds_left) == (15, 30, 0.5, 30.0)


def test_the_rate_is_that_of_recent_steps(tmp_path, clock):
    """A first step that compiles for ten minutes does not slow down the last."""
    file = tmp_path / "x.progress.json"
    with watched(squeeze_job(), file):
        progress = Progress("x", 1000)
        clock[0] = 600.0
        progress.step()
        assert read_progress(file).rate == pytest.approx(1 / 600)
        for _ in range(500):
            clock[0] += 0.5
            progress.step()
        assert read_progress(file).rate == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("error", "ending"),
    [
        (Interrupted("SIGTERM"), "stopped by SIGTERM"),
        (KeyboardInterrupt(), "stopped by SIGINT"),
        (UserError("x: expected 1, got 2; mend it"), "failed: x: expected 1, got 2; mend it"),
        (MemoryError(), "failed: MemoryError"),
    ],
)
def test_why_a_job_ended(error, ending, tmp_path):
    file = tmp_path / "x.progress.json"
    with pytest.raises(type(error)), watched(squeeze_job(), file):
        raise error
    assert read_progress(file).ended == ending
    assert watching.current() is None


@pytest.mark.parametrize("harm", ["a file in place of the folder", "a folder in place of the file"])
def test_progress_that_cannot_be_written_stops_nothing(harm, tmp_path, clock):
    file = tmp_path / "folder" / "x.progress.json"
    if harm.startswith("a file"):
        file.parent.write_text("")
    else:
        file.mkdir(parents=True)
    with watched(squeeze_job(), file):
        progress = Progress("x", 3)
        for _ in range(3):
            clock[0] += 2
            progress.step(loss=1.0)
    assert harm.startswith("a file") or not list(file.parent.glob(".*.tmp"))


def test_a_full_disk_stops_nothing(workspace, make_up_to, monkeypatch, command_of):
    """Every write of progress fails; the stage is made as ever."""
    planned = make_up_to("prepare")
    write_plans(planned, TARGET)
    squeeze = next(artifact for artifact in planned if artifact.stage == "squeeze")
    calls = []

    def full(*arguments, **named):
        calls.append(arguments)
        raise UserError("cannot be written: No space left on device")

    monkeypatch.setattr("gvbsm.store.progress.write_text", full)
    assert cli.main(command_of(squeeze)) == 0
    assert calls and read_receipt(STORE / squeeze.path)["images"] > 0


def test_images_per_second_are_those_of_the_receipts(published_run, monkeypatch, command_of):
    """For every stage that counts images: steps times images per step is the number in its receipt."""
    counted: dict[str, float] = {}
    began = Progress.__init__

    def begin(self, title, total, done=0, images=None):
        began(self, title, total, done, images)
        counted[title.split()[1]] = counted.get(title.split()[1], 0) + total * self._images

    monkeypatch.setattr(Progress, "__init__", begin)
    stages = {}
    for artifact in (one for one in published_run[1:-1] if one.stage != "check"):
        stages.setdefault((artifact.stage, bool(getattr(artifact.spec, "random", None))), artifact)
    for artifact in stages.values():
        (STORE / artifact.path).unlink()
        assert cli.main(command_of(artifact)) == 0
        out = STORE / artifact.path
        assert counted[out.stem] == pytest.approx(read_receipt(out)["images"]), artifact.stage
    assert len(stages) == 7
    assert not list(Path("results/.checkpoints").glob("*.progress.json"))


def test_images_per_second_of_selected_images(workspace, edit_row, make_up_to, make_artifact, monkeypatch, command_of):
    settings = {"choose": "random", "candidates": 1, "crops": 1, "scale": [0.5, 1.0], "cells": 2, "seed": 0}
    edit_row({"select": settings | {"threads": 1, "precision": "float32"}, "recover": {"iterations": 0}})
    steps = []
    monkeypatch.setattr(watching.Watch, "stepped", lambda self, step: steps.append(step))
    planned = make_up_to("prepare")
    write_plans(planned, TARGET)
    select = next(artifact for artifact in planned if artifact.stage == "select")
    assert cli.main(command_of(select)) == 0
    images = steps[-1].images_per_second / steps[-1].rate * steps[-1].total
    assert images == pytest.approx(read_receipt(STORE / select.path)["images"])


def test_a_terminal_has_one_live_line(monkeypatch, clock):
    """Losses, images per second and the time that is left; it counts on from where a checkpoint stands."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    progress = Progress("title", 10, images=50)
    progress.done += 4
    clock[0] = 2.0
    progress.step(loss=0.5, ce=0.25)
    assert progress._bar.n == 5
    shown = str(progress._bar)
    assert "5/10" in shown and "images/s=25, loss=0.5, ce=0.25" in shown
    for _ in range(5):
        progress.step(loss=0.5)
    assert progress._bar.disable, "it is closed"
