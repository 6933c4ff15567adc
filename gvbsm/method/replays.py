"""Steps over fixed tensors as CUDA graphs: one launch instead of hundreds."""

from __future__ import annotations

import functools
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

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


def because(state: str, reason: str) -> str:
    """A state such as "not recorded", and why, if there is a reason: what receipts say of passes."""
    return f"{state} ({reason})" if reason else state
