"""Steps over fixed tensors as CUDA graphs: one launch instead of hundreds."""

from __future__ import annotations

import functools
import gc
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch

from gvbsm.method.reasons import because, first_line

Replay = Callable[[], None]


class Replays:
    """Records steps and replays them; the recordings share one pool of memory, so only one may run at a time.

    A step takes and gives nothing: it reads and writes tensors that outlive it. It must have `run` before, since libraries
    choose their kernels and allocate their workspaces at the first call. torch wants that on a stream beside the default one,
    because the accumulation of gradients stays on the stream of its first use.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = _stream_of(torch.cuda.current_device() if device.index is None else device.index)
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, step: Replay) -> None:
        """The step itself, on the stream of the recordings; work before and after it is in order."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.stream(self._stream):
                step()
        finally:
            current.wait_stream(self._stream)

    def record(self, step: Replay) -> Replay:
        """What repeats a step; nothing is computed yet.

        Raises:
            RuntimeError: if the step cannot be recorded, as when it waits for the device.
        """
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.stream(torch.cuda.current_stream(self._device)),  # restores stream and device, also after an error
            _no_garbage(),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream),
        ):
            step()
        return graph.replay


class RecordedIterations:
    """Iterations of teachers: the first of each is made as it is, the second is recorded, and it and later ones are replayed.

    Those that cannot be recorded are made as they are; a warning and `state` give the reason.
    """

    def __init__(self, device: torch.device, refused: Mapping[int, str] = MappingProxyType({})) -> None:
        """`refused`: why iterations of a teacher, whose number it is by, are not to be recorded."""
        self._device, self._refused = device, dict(refused)
        self.clear()

    def clear(self) -> None:
        """Forget the recordings, and free their memory: the next iterations are of other tensors."""
        self._replays = Replays(self._device)
        self._recordings: dict[int, Replay] = {}
        self._has_run: set[int] = set()

    def run(self, teacher: int, step: Replay, unrecorded: Replay) -> None:
        """Make an iteration; `unrecorded` makes the same, and may do what cannot be recorded."""
        if teacher in self._has_run and teacher not in self._refused and teacher not in self._recordings:
            try:
                self._recordings[teacher] = self._replays.record(step)
            except RuntimeError as error:
                self._refused[teacher] = first_line(error)
                warnings.warn(f"recover runs without CUDA graphs: {self._refused[teacher]}", stacklevel=2)
        if teacher in self._recordings:
            self._recordings[teacher]()
        elif teacher in self._refused:
            unrecorded()
        else:
            self._replays.run(step)
        self._has_run.add(teacher)

    def state(self, teacher: int) -> str:
        """Whether a teacher's iteration is recorded, and why not."""
        if teacher in self._recordings:
            return "recorded"
        return because("not recorded", self._refused.get(teacher, "few iterations"))


@functools.cache
def _stream_of(index: int) -> torch.cuda.Stream:
    """One for all recordings on a GPU, of whatever batch: cuBLAS keeps a workspace for every stream it has worked on, 32 MiB on
    an H100."""
    return torch.cuda.Stream(index)


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Collect no garbage during the block: the deletion of an old graph would make the recording fail."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
