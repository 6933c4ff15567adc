"""A watch reports a running job: to its progress file and to the configured tracker.

The command line opens a watch around a stage. `Progress` and `Checkpoint` find it by `current()`, so stages do not handle it.
No error here stops the job.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gvbsm.errors import Interrupted, UserError
from gvbsm.runtime.tracking import Tracker
from gvbsm.store.job import Job
from gvbsm.store.progress import Record, delete_progress, write_progress
from gvbsm.store.receipts import KEYED

# (number of steps) -> images that the stage processes in one step, on average; None if unknown.
ImagesPerStep = Callable[[int], float | None]

_WRITE_SECONDS = 1.0  # between two writes of a progress file
_current: ContextVar[Watch | None] = ContextVar("watch", default=None)


@dataclass(frozen=True)
class Step:
    """A finished step, the `done`-th of `total`, and its values."""

    title: str
    done: int
    total: int
    rate: float  # steps per second
    values: dict[str, float]
    images_per_second: float | None = None


class Watch:
    """One running job. A job may count several times, as evaluate does for each seed; each count is a part of the whole."""

    def __init__(self, job: Job[Any], file: Path, tracker: Tracker | None, images_per_step: ImagesPerStep) -> None:
        self._job, self._file, self._tracker = job, file, tracker
        self.images_per_step = images_per_step
        self._part, self._parts = 0, len(getattr(job.spec, "seeds", [None]))
        now, match = time.time(), KEYED.fullmatch(job.out.stem)
        self._record = Record(
            stage=job.spec.stage,
            name=match["name"] if match else job.out.stem,
            key=job.spec.key,
            host=socket.gethostname(),
            pid=os.getpid(),
            slurm_job=os.environ.get("SLURM_JOB_ID"),
            started=now,
            updated=now,
        )
        self._written = 0.0
        self._write()

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
        """The job is running: write its file again, if it is time or `at_once`."""
        if at_once or time.monotonic() - self._written >= _WRITE_SECONDS:
            self._write()

    def ended(self, error: BaseException | None) -> None:
        """The job is over. Without an error delete its file; with one write the reason into it."""
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
    """The watch of the job in this process, or None."""
    return _current.get()


@contextlib.contextmanager
def watched(
    job: Job[Any], file: Path, tracker: Tracker | None = None, images_per_step: ImagesPerStep = lambda steps: None
) -> Iterator[None]:
    """Watch a job while the block runs; if several processes train together, only rank 0."""
    if not job.writes:
        yield
        return
    watch = Watch(job, file, tracker, images_per_step)
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
