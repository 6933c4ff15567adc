"""What a running job says of itself: a file beside its lock, `<key>.progress.json`, deleted when the job ends well.

Standard library only: whoever looks at jobs reads these files without loading what computes.
"""

from __future__ import annotations

import contextlib
import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from gvbsm.errors import UserError
from gvbsm.store.files import write_text
from gvbsm.store.locks import CHECKPOINTS

SUFFIX = ".progress.json"


@dataclass(frozen=True)
class Record:
    """How far a job is. Steps are what the stage counts: iterations, batches, groups of images or epochs."""

    stage: str
    name: str  # of its artifact, without the key
    key: str
    host: str
    pid: int
    slurm_job: str | None
    started: float  # seconds since 1970, as is `updated`
    updated: float
    done: int = 0
    total: int | None = None  # None: the stage has not begun to count, or does not
    rate: float | None = None  # steps per second
    images_per_second: float | None = None
    seconds_left: float | None = None
    values: dict[str, float | None] = field(default_factory=dict)  # of the last step: losses, top1; None if not finite
    ended: str | None = None  # why it stopped before its end; also None if it was killed, and could not say


_NUMBER = (int, float)
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("stage", "name", "key", "host"), str),
    **dict.fromkeys(("slurm_job", "ended"), (str, type(None))),
    **dict.fromkeys(("started", "updated"), _NUMBER),
    **dict.fromkeys(("pid", "done"), int),
    **dict.fromkeys(("rate", "images_per_second", "seconds_left"), (*_NUMBER, type(None))),
    "total": (int, type(None)),
    "values": dict,
}


def progress_file(key: str, checkpoints: Path = CHECKPOINTS) -> Path:
    """Where the job that makes the artifact of a key says how far it is."""
    return checkpoints / f"{key}{SUFFIX}"


def key_of(file: Path) -> str:
    """The key in a progress file's name."""
    return file.name.removesuffix(SUFFIX)


def write_progress(file: Path, record: Record) -> None:
    """Replace a progress file. Where nothing can be written nothing is, and the job goes on: it does not depend on this."""
    finite = {name: value if value is not None and math.isfinite(value) else None for name, value in record.values.items()}
    with contextlib.suppress(UserError):
        write_text(file, json.dumps(asdict(record) | {"values": finite}, indent=1), durable=False)


def read_progress(file: Path) -> Record | None:
    """What a job says; None if there is no such file, or it holds anything else."""
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or not said.keys() <= {one.name for one in fields(Record)}:
        return None
    if not all(isinstance(said.get(name), kind) for name, kind in _KINDS.items()):
        return None
    return Record(**said) if all(isinstance(one, (*_NUMBER, type(None))) for one in said["values"].values()) else None


def delete_progress(file: Path) -> None:
    """The job has ended well. What cannot be deleted is left."""
    with contextlib.suppress(OSError):
        file.unlink(missing_ok=True)
