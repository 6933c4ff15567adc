"""A step over fixed tensors as a CUDA graph: one launch instead of hundreds."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class Replays:
    """Records steps and replays them; all recordings share one pool of memory, so only one may run at a time.

    A step takes nothing and returns nothing: it reads and writes tensors that outlive it. It must have run before on this
    device, since libraries choose their kernels and allocate their workspaces at the first call.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def run(self, step: Callable[[], None]) -> None:
        """The step itself, on the stream of the recordings."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            step()
        current.wait_stream(self._stream)

    def record(self, step: Callable[[], None]) -> Callable[[], None]:
        """Replays a step; nothing is computed yet.

        Raises:
            RuntimeError: if the step cannot be recorded, as when it waits for the device.
        """
        graph = torch.cuda.CUDAGraph()
        with _no_garbage():  # the deletion of an old graph during a recording would make it fail
            torch.cuda.synchronize(self._device)
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
                step()
        return graph.replay


@contextmanager
def _no_garbage() -> Iterator[None]:
    """Collect no garbage during the block."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
