"""What the tests of GPUs and clusters share."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from gvbsm.keys import STAGES


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
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                words = (process / "cmdline").read_bytes().decode().split("\0")
                stage = next((word for before, word in itertools.pairwise(words) if before.endswith("gvbsm")), "")
                where = str((process / "cwd").readlink())
                environment = dict(one.partition("=")[::2] for one in (process / "environ").read_bytes().decode().split("\0"))
            except OSError:  # ended meanwhile
                continue
            if stage in STAGES and where == str(folder.resolve()):
                found.append(
                    Running(stage, environment.get("CUDA_VISIBLE_DEVICES", ""), environment.get("SLURM_JOB_ID", ""), where)
                )
        return found

    return look
