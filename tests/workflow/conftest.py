"""What the tests of GPUs and clusters share."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from gvbsm.pipeline.registry import STAGES


class Running(NamedTuple):
    """A stage that a process of this machine runs."""

    stage: str
    devices: str  # CUDA_VISIBLE_DEVICES
    job: str  # of SLURM
    folder: str


@pytest.fixture
def running_stages() -> Callable[[Path], list[Running]]:
    """The stages that run now in a folder."""

    def look(folder: Path) -> list[Running]:
        by_process: dict[str, tuple[str, Running]] = {}  # by process, with its parent
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().decode().split("\0")
                stage = next((word for before, word in itertools.pairwise(words) if before.endswith("gvbsm")), "")
                where = str((process / "cwd").readlink())
                variables = (process / "environ").read_bytes().decode().split("\0")
                parent = (process / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:  # ended meanwhile
                continue
            environment = dict(variable.partition("=")[::2] for variable in variables)
            # A process that is ending has no environment any more.
            if stage in STAGES and where == str(folder.resolve()) and environment != {"": ""}:
                devices, job = (environment.get(name, "") for name in ("CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"))
                by_process[process.name] = (parent, Running(stage, devices, job, where))
        # What a stage starts looks like the stage until it runs another program.
        return [running for parent, running in by_process.values() if parent not in by_process]

    return look
