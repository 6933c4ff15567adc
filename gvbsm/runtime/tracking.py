"""Curves of every stage in TensorBoard or Weights & Biases, if GVBSM_TRACKING (set from config.yaml) names one.

A job is one run, or one run per seed. A step has the stage's own number, also after a resume. No error here stops a job: the
first is reported, and the job continues without tracking.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from gvbsm.errors import UserError
from gvbsm.store.job import Job

VARIABLE = "GVBSM_TRACKING"
_FLUSH_SECONDS = 10  # a killed job may lose this much of its curve


class Tracker(Protocol):
    """Logs the values of a job's steps."""

    def log(self, part: str, step: int, values: dict[str, float]) -> None:
        """Values of the `step`-th step, counted from 1, of a part of the job ("seed0"; "" if it has no parts)."""

    def close(self) -> None:
        """End the log."""


def tracker(job: Job[Any]) -> Tracker | None:
    """The configured tracker; None if there is none, or if this process does not write.

    Raises:
        UserError: if the name is unknown, or the tracker's package is missing.
    """
    name = os.environ.get(VARIABLE) or "none"
    if name not in ("none", *_TRACKERS):
        raise UserError(f"{VARIABLE}: expected none or one of {', '.join(_TRACKERS)}, got {name!r}; correct it")
    if name == "none" or not job.writes:
        return None
    package = importlib.util.find_spec(name)
    if package is None or package.origin is None:  # origin None: only a folder of that name, as wandb makes
        remedy = f'pip install "gvbsm[tracking]" (or {name}), or set tracking: none in config.yaml'
        raise UserError(f"tracking: {name}: expected the package {name}, got none; {remedy}")
    return _Careful(name, job)


class _Careful:
    """A tracker that opens with the first values, and stops at the first error."""

    def __init__(self, name: str, job: Job[Any]) -> None:
        self._name, self._job = name, job
        self._tracker: Tracker | None = None
        self._failed = False

    def log(self, part: str, step: int, values: dict[str, float]) -> None:
        def log() -> None:
            if self._tracker is None:
                self._tracker = _TRACKERS[self._name](self._job)
            self._tracker.log(part, step, values)

        if values:
            self._try(log)

    def close(self) -> None:
        if self._tracker:
            self._try(self._tracker.close)

    def _try(self, action: Callable[[], None]) -> None:
        if self._failed:
            return
        try:
            action()
        except Exception as error:  # of any kind: no curve may stop a job
            self._failed = True
            reason = UserError(f"{type(error).__name__}: {error}")  # in one line
            sys.stderr.write(f"tracking: {self._name} failed, the job goes on without it: {reason}\n")


def _folder(job: Job[Any], name: str) -> Path:
    return job.store.parent / "tracking" / name


class _TensorBoard:
    """Event files in results/tracking/tensorboard/<stage>/<artifact>[/<part>]."""

    def __init__(self, job: Job[Any]) -> None:
        self._folder = _folder(job, "tensorboard") / job.spec.stage / job.out.stem
        self._writers: dict[str, Any] = {}

    def log(self, part: str, step: int, values: dict[str, float]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if part not in self._writers:
            # Purge this step and later ones, which an earlier process logged after its last checkpoint.
            folder = str(self._folder / part)
            self._writers[part] = SummaryWriter(folder, purge_step=step, flush_secs=_FLUSH_SECONDS)  # type: ignore[no-untyped-call]
        for name, value in values.items():
            self._writers[part].add_scalar(name, value, step)

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class _WandB:
    """Runs in results/tracking/wandb; uploaded only if WANDB_MODE says so, or later by `wandb sync`."""

    def __init__(self, job: Job[Any]) -> None:
        self._job, self._part = job, ""
        self._run: Any = None
        folder = _folder(job, "wandb")
        folder.mkdir(parents=True, exist_ok=True)
        defaults = {"WANDB_MODE": "offline", "WANDB_PROJECT": "gvbsm", "WANDB_DIR": str(folder.parent)}
        # Silent: no text in the log, and an error instead of a login prompt, after which `_start` goes offline.
        defaults |= {"WANDB_SILENT": "true", "WANDB_CACHE_DIR": str(folder / "cache"), "WANDB_DATA_DIR": str(folder / "data")}
        for name, value in defaults.items():
            os.environ.setdefault(name, value)

    def log(self, part: str, step: int, values: dict[str, float]) -> None:
        if self._run is None or part != self._part:
            self.close()
            self._run, self._part = self._start(part), part
        self._run.log(values, step=step)

    def close(self) -> None:
        if self._run is not None:
            self._run.finish()

    def _start(self, part: str) -> Any:
        import wandb

        job, name = self._job, self._job.out.stem
        arguments: dict[str, Any] = {
            "id": "-".join(filter(None, (job.spec.key, part))),  # a resumed job has the same id
            "name": " ".join(filter(None, (name, part))),
            "group": name,
            "job_type": job.spec.stage,
            "config": {"stage": job.spec.stage, "settings": job.spec.json_object.get("settings") or {}},
            "resume": "allow",
            "settings": wandb.Settings(console="off", disable_git=True, save_code=False),
        }
        try:
            return wandb.init(**arguments)
        except Exception as error:
            if os.environ["WANDB_MODE"] == "offline":
                raise
            reason = UserError(f"{type(error).__name__}: {error}")
            sys.stderr.write(f"tracking: wandb cannot be reached, its files stay here for `wandb sync`: {reason}\n")
            wandb.teardown()  # the failed run would block the next one
            return wandb.init(**arguments, mode="offline")


_TRACKERS: dict[str, Callable[[Job[Any]], Tracker]] = {"tensorboard": _TensorBoard, "wandb": _WandB}
