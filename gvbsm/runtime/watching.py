"""How a running job is watched from outside: its progress file, and the tracker that was chosen.

The command line opens a watch around a stage; `Progress` and `Checkpoint` find it, and stages need not know of it. Whatever
goes wrong here, the job goes on.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gvbsm.artifacts import Job
from gvbsm.errors import Interrupted, UserError
from gvbsm.keys import key
from gvbsm.progressfiles import Record, delete_progress, write_progress
from gvbsm.receipts import KEYED
from gvbsm.runtime.tracking import Tracker

_WRITE_SECONDS = 1.0  # between two writes of a progress file
_current: ContextVar[Watch | None] = ContextVar("watch", default=None)


@dataclass(frozen=True)
class Step:
    """A step that is done, the `done`-th of `total`; what it says beside that."""

    title: str
    done: int
    total: int
    rate: float  # steps per second
    values: dict[str, float]
    images_per_second: float | None = None


class Watch:
    """One running job. Some count more than once, evaluate for every seed: each count is a part of the whole."""

    def __init__(self, job: Job, file: Path, tracker: Tracker | None = None) -> None:
        self._job, self._file, self._tracker = job, file, tracker
        self._part, self._parts = 0, len(job.spec.get("seeds") or [None])
        now, named = time.time(), KEYED.fullmatch(job.out.stem)
        self._record = Record(
            stage=job.spec["stage"],
            name=named["name"] if named else job.out.stem,
            key=key(job.spec),
            host=socket.gethostname(),
            pid=os.getpid(),
            slurm_job=os.environ.get("SLURM_JOB_ID"),
            started=now,
            updated=now,
        )
        self._written = 0.0
        self._write()

    def images_per_step(self, steps: int) -> float | None:
        """Images that go through the stage in one of so many steps, on average; None if that cannot be told."""
        try:
            return _images_per_step(self._job, steps)
        except (KeyError, TypeError, ZeroDivisionError):
            return None

    def began(self, done: int, total: int) -> None:
        """A count begins, at `done` of `total`."""
        self._part += 1
        self._record = replace(self._record, **self._whole(done, total))
        self._write()

    def stepped(self, step: Step) -> None:
        """A step of the count is done."""
        whole = self._whole(step.done, step.total)
        self._record = replace(
            self._record,
            **whole,
            rate=step.rate,
            images_per_second=step.images_per_second,
            seconds_left=(whole["total"] - whole["done"]) / step.rate,
            values=dict(step.values),
        )
        if self._tracker:
            speed = {"images_per_second": step.images_per_second} if step.images_per_second else {}
            part = step.title.removeprefix(self._job.title).replace(" ", "")
            self._tracker.log(part, step.done, {**step.values, **speed})
        self.alive(whole["done"] == whole["total"])

    def alive(self, at_once: bool = False) -> None:
        """The job computes: its file is written anew, if it is time to."""
        if at_once or time.monotonic() - self._written >= _WRITE_SECONDS:
            self._write()

    def ended(self, error: BaseException | None) -> None:
        """The job is over: well, and its file goes, or not, and it says why."""
        if error is None:
            delete_progress(self._file)
        else:
            self._record = replace(self._record, ended=_reason(error), seconds_left=None)
            self._write()
        if self._tracker:
            self._tracker.close()

    def _whole(self, done: int, total: int) -> dict[str, Any]:
        parts = max(self._parts, self._part)
        return {"done": (self._part - 1) * total + done, "total": parts * total}

    def _write(self) -> None:
        self._written = time.monotonic()
        self._record = replace(self._record, updated=time.time())
        write_progress(self._file, self._record)


def current() -> Watch | None:
    """The watch of the job that runs here, if it is watched."""
    return _current.get()


@contextlib.contextmanager
def watched(job: Job, file: Path, tracker: Tracker | None = None) -> Iterator[None]:
    """Watch a job while the block runs; of processes that train together, the first is."""
    if not job.writes:
        yield
        return
    watch = Watch(job, file, tracker)
    token = _current.set(watch)
    try:
        yield
    except BaseException as error:
        watch.ended(error)
        raise
    else:
        watch.ended(None)
    finally:
        _current.reset(token)


def _reason(error: BaseException) -> str:
    if isinstance(error, Interrupted):
        return f"stopped by {error}"
    if isinstance(error, KeyboardInterrupt):
        return "stopped by SIGINT"
    return f"failed: {error}" if isinstance(error, UserError) else f"failed: {type(error).__name__}"


def _images_per_step(job: Job, steps: int) -> float | None:
    """As stages count them for their receipts. Read from the spec and the receipts of inputs, which have been verified: if
    stages said it themselves, their code, and so every artifact, would be another."""
    spec, stage = job.spec, job.spec["stage"]
    if stage in ("squeeze", "statistics"):
        images = job.receipts[spec["inputs"]["data"]]["summary"]["train_images"]
        return float(images if stage == "squeeze" else images / steps)
    if stage in ("select", "recover"):
        places = sum(end - first for batch in spec["batches"] for _, first, end in batch)
        if stage == "recover":
            return places / len(spec["batches"])
        return float(places * spec["settings"]["cells"] ** 2 * spec["settings"]["candidates"] / steps)
    if stage not in ("relabel", "convert", "evaluate"):
        return None
    if spec.get("random"):
        return float(spec["random"]["ipc"] * len(job.classes or ())) or None
    paths = spec["inputs"]["images"]
    return float(sum(job.receipts[path]["summary"]["images"] for path in ([paths] if isinstance(paths, str) else paths)))
