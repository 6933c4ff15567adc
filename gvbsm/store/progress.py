"""The progress file of a running job: `<key>.progress.json` beside its lock, deleted when the job ends without an error.

Without torch: commands read these files.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import ClassVar

from pydantic import ConfigDict, TypeAdapter

from gvbsm.errors import UserError
from gvbsm.store.files import write_text
from gvbsm.store.locks import CHECKPOINTS

SUFFIX = ".progress.json"


@dataclass(frozen=True)
class Record:
    """The progress of a job. Its steps are iterations, batches, groups of images or epochs, depending on the stage."""

    __pydantic_config__: ClassVar = ConfigDict(extra="forbid")  # of another version

    stage: str
    name: str  # of its artifact, without the key
    key: str
    host: str
    pid: int
    slurm_job: str | None
    started: float  # seconds since 1970, as is `updated`
    updated: float
    done: int = 0
    total: int | None = None  # None: the stage has not begun to count, or does not count
    rate: float | None = None  # steps per second
    images_per_second: float | None = None
    seconds_left: float | None = None
    values: dict[str, float | None] = field(default_factory=dict)  # of the last step: losses, top1; None if not finite
    ended: str | None = None  # why the job stopped early; None also if it was killed


def progress_file(key: str, checkpoints: Path = CHECKPOINTS) -> Path:
    """The progress file of the job that makes the artifact of a key."""
    return checkpoints / f"{key}{SUFFIX}"


def key_of(file: Path) -> str:
    """The key in a progress file's name."""
    return file.name.removesuffix(SUFFIX)


def write_progress(file: Path, record: Record) -> None:
    """Replace a progress file. If it cannot be written, the job continues without it."""
    finite = {name: value if value is not None and math.isfinite(value) else None for name, value in record.values.items()}
    with contextlib.suppress(UserError):
        write_text(file, json.dumps(asdict(record) | {"values": finite}, indent=1), durable=False)


def read_progress(file: Path) -> Record | None:
    """The record of a job; None if there is no such file, or it has another content."""
    try:
        return _reader().validate_json(file.read_bytes(), strict=True)
    except (OSError, ValueError):
        return None


@cache  # made only where there is a file to read: that takes some milliseconds
def _reader() -> TypeAdapter[Record]:
    return TypeAdapter(Record)


def delete_progress(file: Path) -> None:
    """Delete the progress file of a finished job, if that is possible."""
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)
