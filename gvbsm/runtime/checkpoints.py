"""Checkpoints of long stages: on a timer and on signals, in one safetensors file, replaced atomically."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from gvbsm.errors import Interrupted
from gvbsm.method.ranks import ranks
from gvbsm.runtime.watching import current
from gvbsm.store.files import load_tensors, mapped_tensor, save_tensors, write_text
from gvbsm.store.job import Job

State = dict[str, Any]  # what a computation goes on from: tensors, numbers, strings and None, in dicts and lists
_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
_HANDED = "handed_over"  # file beside a state that another job has computed
_received: list[int] = []


def install_signal_handlers() -> None:
    """From now on a signal only requests a checkpoint; the next `Checkpoint.tick` writes it and stops the stage."""
    for number in _SIGNALS:
        signal.signal(number, lambda received, _frame: _received.append(received))


class Checkpoint:
    """The state of one computation, in `<folder>/<name>.safetensors`; not saved if `folder` is None.

    A state consists of dicts and lists of tensors, numbers, strings and None.
    """

    def __init__(self, folder: Path | None, seconds: float, name: str = "state", job: Job[Any] | None = None) -> None:
        self.folder = folder
        self.seconds = seconds
        self.file = folder / f"{name}.safetensors" if folder else None
        self._seconds_file = folder / "seconds" if folder else None
        self._job = job
        self._saved = time.monotonic()
        self._mapped: list[Path] = []

    @staticmethod
    def of(job: Job[Any]) -> Checkpoint:
        """The checkpoint of a job; sets `job.seconds_before`, the time that earlier processes took."""
        checkpoint = Checkpoint(job.checkpoints, job.checkpoint_seconds, job=job)
        if checkpoint._seconds_file:
            with contextlib.suppress(OSError, ValueError):
                job.seconds_before = float(checkpoint._seconds_file.read_text())
        return checkpoint

    def named(self, name: str) -> Checkpoint:
        """Another checkpoint of the same job."""
        return Checkpoint(self.folder, self.seconds, name, self._job)

    def tensor(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor that earlier processes may have filled in part; zeros at first.

        It is a memory-mapped file beside the state: a large result is neither held in memory nor written again at every save.
        It may be ahead of the saved state, so the state should hold how much of it is valid.
        """
        if self.folder is None:
            return torch.zeros(shape, dtype=dtype)
        self._mapped.append(self.folder / f"{name}.raw")
        return mapped_tensor(self._mapped[-1], shape, dtype)

    def load(self) -> Any:
        """The last state saved, tensors on the CPU, or None. A damaged file counts as none.

        Raises:
            OSError: if the file cannot be read now: its state may still be whole.
        """
        if self.file is None or not self.file.is_file():
            return None
        try:
            tensors, structure = load_tensors(self.file)
            # A copy, since the mapped file is replaced while the state is in use.
            return _join(structure, {name: tensor.clone() for name, tensor in tensors.items()})
        except (SafetensorError, ValueError, TypeError, LookupError):
            return None

    def tick(self, state: Callable[[], Any]) -> None:
        """Save `state()` if it is time, or if a signal came; processes that train together do so at the same tick.

        Raises:
            Interrupted: after saving, if a signal came.
        """
        if watch := current():
            watch.alive()  # an epoch may be long
        stopped, due = ranks().any(bool(_received), time.monotonic() - self._saved >= self.seconds)
        if stopped or due:
            self.save(state())
        if stopped:
            raise Interrupted(signal.Signals(_received[-1] if _received else signal.SIGTERM).name)

    def save(self, state: Any) -> None:
        """Save now; if several processes train together, rank 0 does."""
        if self.file is not None and ranks().rank == 0:
            tensors: dict[str, Tensor] = {}
            structure = _split(state, tensors, "")
            for file in self._mapped:  # on the disk before the state, which relies on it
                with file.open("rb") as opened:
                    os.fsync(opened.fileno())
            save_tensors(self.file, tensors, structure)
            if self._job and self._seconds_file:
                write_text(self._seconds_file, str(self._job.seconds()))
        self._saved = time.monotonic()

    def hand_over(self, folder: Path, done: int) -> None:
        """Give the last state saved, after `done` steps of some kind, to the job of another folder, which goes on from it.

        The time that it took stays this job's, so that no time counts twice; `handed_over` tells that job of the steps.
        """
        if self.file is not None and self.file.is_file():
            folder.mkdir(parents=True, exist_ok=True)
            write_text(folder / _HANDED, str(done))
            part = folder / f"{self.file.name}.part"
            shutil.copyfile(self.file, part)
            part.replace(folder / self.file.name)

    def handed_over(self) -> int:
        """The steps that another job did before this one, as it said in `hand_over`."""
        with contextlib.suppress(OSError, ValueError):
            return int((self.folder / _HANDED).read_text()) if self.folder else 0
        return 0

    def clear(self) -> None:
        """Delete every checkpoint of the job: the artifact is written.

        At once, by another name, since a process may be killed here: a state without its tensors would be gone on from.
        """
        if self.folder and self.folder.is_dir() and ranks().rank == 0:
            cleared = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.tmp")  # `gvbsm gc` knows such names
            self.folder.rename(cleared)
            shutil.rmtree(cleared)


def _split(value: Any, tensors: dict[str, Tensor], at: str) -> Any:
    """JSON-able structure of a state; its tensors go into `tensors` under their paths."""
    if isinstance(value, Tensor):
        tensors[at] = value.detach().clone() if value.device.type == "cpu" else value.detach().cpu()
        return ["tensor", at]
    if isinstance(value, dict):
        return ["dict", [[name, _split(item, tensors, f"{at}/{name}")] for name, item in value.items()]]
    if isinstance(value, (list, tuple)):
        return ["list", [_split(item, tensors, f"{at}/{i}") for i, item in enumerate(value)]]
    # A number's text keeps its value exactly, infinities included, and survives the pruning of None.
    return ["none"] if value is None else [type(value).__name__, repr(value) if isinstance(value, float) else value]


def _join(structure: Any, tensors: dict[str, Tensor]) -> Any:
    kind = structure[0]
    if kind == "tensor":
        return tensors[structure[1]]
    if kind == "dict":
        return {name: _join(item, tensors) for name, item in structure[1]}
    if kind == "list":
        return [_join(item, tensors) for item in structure[1]]
    if kind == "float":
        return float(structure[1])
    return None if kind == "none" else structure[1]


def to_device(state: Any, device: torch.device) -> Any:
    """A state with its tensors on `device`."""
    if isinstance(state, Tensor):
        return state.to(device)
    if isinstance(state, dict):
        return {name: to_device(item, device) for name, item in state.items()}
    return [to_device(item, device) for item in state] if isinstance(state, list) else state
