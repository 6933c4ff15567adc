"""kill -9 at any moment, fifty times in all: what comes out in the end is what an undisturbed run makes.

One of these kills is in the plain run.
"""

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import write_plans
from gvbsm.store.files import file_hash
from gvbsm.store.plans import STORE

NIGHTLY = pytest.mark.nightly("kills")
# Long enough to be killed in the middle.
LONGER = {
    "squeeze": {"epochs": 6},
    "statistics": {"batch_size": 2},
    "recover": {"iterations": 80},
    "relabel": {"epochs": 60, "shard_epochs": 60},
    "evaluate": {"epochs": 20, "test_every": 10},
}
MORE = {"squeeze": 9, "statistics": 4, "recover": 9, "relabel": 9, "evaluate": 9}

# A job that kills itself when it writes its n-th file of a name, before or after the file takes its place. A clock would not do
# alone: a fast machine ends the job before its first checkpoint.
KILL_AT_WRITE = """
import os, pathlib, signal, sys
when, writes, ending = sys.argv.pop(1), int(sys.argv.pop(1)), sys.argv.pop(1)
replace = pathlib.Path.replace
def replace_or_die(path, target):
    global writes
    writes -= str(target).endswith(ending)
    if not writes and when == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    replace(path, target)
    if not writes:
        os.kill(os.getpid(), signal.SIGKILL)
pathlib.Path.replace = replace_or_die
from gvbsm.cli import main
sys.exit(main())
"""


def test_killed_at_its_second_checkpoint(published_run, edit_row, make_artifact):
    job = Job("recover", edit_row, make_artifact, {"iterations": 12})
    assert job.killed_at_write("before", 2) and any(job.checkpoints.glob("*.safetensors"))
    job.finish()


@NIGHTLY
@pytest.mark.parametrize("stage", LONGER)
def test_killed_at_two_moments(stage, published_run, edit_row, make_artifact):
    job = Job(stage, edit_row, make_artifact)
    assert job.killed_at_write("before", 2)
    assert job.killed_at_write("before", 1, job.out.name)  # went on from the first's checkpoint, and came to its last step
    assert job.resumed == 1
    job.finish()


@NIGHTLY
@pytest.mark.parametrize("stage", MORE)
def test_killed_at_forty_more(stage, published_run, edit_row, make_artifact):
    job = Job(stage, edit_row, make_artifact)
    chance = random.Random(stage)
    kills = 0
    for _ in range(5 * MORE[stage]):  # some are over before they are killed
        if chance.random() < 0.5:
            kills += job.killed_after(chance.uniform(0, 8))
        else:
            kills += job.killed_at_write(chance.choice(["before", "after"]), chance.randint(1, 5))
        if kills == MORE[stage]:
            break
    assert kills == MORE[stage] and job.resumed
    job.finish()


class Job:
    """One job of a stage, whose inputs are made, and the hash of what it makes undisturbed."""

    def __init__(self, stage, edit_row, make_artifact, settings=None) -> None:
        edit_row({stage: settings or LONGER[stage]})
        planned = plan("tiny", 4)
        write_plans(planned, Path("results/tiny/ipc4/acc.json"))
        *_, artifact = (artifact for artifact in planned if artifact.stage == stage)  # squeeze: a network with BatchNorm
        make_artifact(artifact)
        self.out = STORE / artifact.path
        self.expected = file_hash(self.out)
        self.checkpoints = Path("results/.checkpoints") / artifact.key
        self.arguments = [stage, "--spec", f"results/.plan/{artifact.key}.json", "--out", str(self.out)]
        self.arguments += ["--device", "cpu", "--checkpoint-seconds", "0"]
        self.resumed = 0  # how many kills hit a process that had gone on from a checkpoint
        self.out.unlink()

    def killed_at_write(self, when: str, writes: int, ending: str = ".safetensors") -> bool:
        """Run the job until it kills itself; False if it was over before."""
        return self._killed([sys.executable, "-c", KILL_AT_WRITE, when, str(writes), ending, *self.arguments], None)

    def killed_after(self, seconds: float) -> bool:
        """Kill the job after so many seconds; False if it was over before."""
        return self._killed([sys.executable, "-m", "gvbsm", *self.arguments], seconds)

    def _killed(self, command: list[str], seconds: float | None) -> bool:
        going_on = any(self.checkpoints.glob("*.safetensors"))
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            try:
                _, stderr = process.communicate(timeout=seconds or 300)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                _, stderr = process.communicate()
        if process.returncode == 0:
            assert file_hash(self.out) == self.expected
            return False
        assert process.returncode == -signal.SIGKILL, stderr
        self.resumed += going_on
        return True

    def finish(self) -> None:
        """Let the job come to its end, and compare."""
        subprocess.run([sys.executable, "-m", "gvbsm", *self.arguments], check=True, stderr=subprocess.DEVNULL, timeout=300)
        assert file_hash(self.out) == self.expected
        assert not self.checkpoints.exists()
