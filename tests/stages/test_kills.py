"""kill -9 at any moment, fifty times in all: what comes out in the end is what an undisturbed run makes.

Ten of the fifty are in the plain run, two for each stage that saves its state.
"""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import write_plans
from gvbsm.store.files import file_hash
from gvbsm.store.plans import STORE

# Long enough to be killed in the middle.
LONGER = {
    "squeeze": {"epochs": 6},
    "statistics": {"batch_size": 2},
    "recover": {"iterations": 80},
    "relabel": {"epochs": 60, "shard_epochs": 60},
    "evaluate": {"epochs": 20, "test_every": 10},
}
MORE = {"squeeze": 9, "statistics": 4, "recover": 9, "relabel": 9, "evaluate": 9}


@pytest.mark.parametrize("stage", LONGER)
def test_killed_at_two_moments(stage, made, edit_row, make_artifact):
    kill(stage, 2, random.Random(stage), edit_row, make_artifact)


@pytest.mark.nightly("kills")
@pytest.mark.parametrize("stage", MORE)
def test_killed_at_forty_more(stage, made, edit_row, make_artifact):
    kill(stage, MORE[stage], random.Random(f"{stage}, more"), edit_row, make_artifact)


def kill(stage, times, chance, edit_row, make_artifact) -> None:
    """Kill one job of a stage so often, and compare what it makes with what it made undisturbed. What it reads is there."""
    edit_row({stage: LONGER[stage]})
    planned = plan("tiny", 4)
    write_plans(planned, Path("results/tiny/ipc4/acc.json"))
    artifact = next(one for one in planned if one.stage == stage)
    make_artifact(artifact)
    out = STORE / artifact.path
    expected = file_hash(out)
    command = [sys.executable, "-m", "gvbsm", stage, "--spec", f"results/.plan/{artifact.key}.json", "--out", str(out)]
    command += ["--device", "cpu", "--checkpoint-seconds", "0.1"]
    checkpoints = Path("results/.checkpoints") / artifact.key
    out.unlink()
    kills = resumed = 0
    while kills < times:
        before = saved(checkpoints)
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        # At once or while it starts; or later, after it has saved again. The first time right then, so that the next goes on.
        deadline = time.monotonic() + chance.uniform(0, 3)
        if not kills or chance.random() < 0.7:
            deadline = time.monotonic() + 120
            while process.poll() is None and saved(checkpoints) == before and time.monotonic() < deadline:
                time.sleep(0.01)
            deadline = time.monotonic() + (chance.uniform(0, 0.5) if kills else 0)
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate(timeout=60)
        resumed += bool(before)
        if process.returncode == 0:  # it was faster
            assert file_hash(out) == expected
            out.unlink()
            continue
        assert process.returncode == -signal.SIGKILL, said
        kills += 1
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL, timeout=300)
    assert file_hash(out) == expected
    assert resumed, "it never went on from a checkpoint"
    assert not checkpoints.exists()


def saved(checkpoints: Path) -> list[tuple[str, int]]:
    """The checkpoints that there are, and when they were written."""
    try:
        return sorted((file.name, file.stat().st_mtime_ns) for file in checkpoints.glob("*.safetensors"))
    except OSError:  # replaced meanwhile
        return []
