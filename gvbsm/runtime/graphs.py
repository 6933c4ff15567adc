"""CUDA graphs of a network that trains on small batches, whose kernels take less time than it takes to launch them."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator
from typing import cast

import torch
from torch import Tensor, nn

Passes = Callable[[Tensor], Tensor]

_MOST = 2**21  # values of a batch: with more of them the kernels take longer than their launches, and a graph keeps its memory


class Replayed(nn.Module):
    """A network whose passes over small batches are recorded, a graph per shape, and replayed; on CUDA alone.

    What a step computes is the same; its launches are one for the forward and one for the backward pass. Replayed are passes
    that train and begin a step, over a shape that came twice in a row: gradients lie where the recording put them, and another
    pass before the next step would write over them. A branch that Python takes by chance is taken as it was recorded. Of a
    network that waits for its own values nothing is recorded, and a warning says why.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._weights = list(model.parameters())
        self._graphs: dict[torch.Size, Passes] = {}
        self._last: torch.Size | None = None
        self._fails = False

    def forward(self, x_BCHW: Tensor) -> Tensor:
        begins = self.training and torch.is_grad_enabled() and all(weight.grad is None for weight in self._weights)
        if self._fails or not begins or x_BCHW.numel() > _MOST:
            return self.model(x_BCHW)
        repeated, self._last = x_BCHW.shape == self._last, x_BCHW.shape
        if repeated and x_BCHW.shape not in self._graphs:
            try:
                self._graphs[x_BCHW.shape] = _record(self.model, x_BCHW)
            except RuntimeError as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"trained without CUDA graphs: {reason}", stacklevel=2)
                self._fails = True
        return self._graphs.get(x_BCHW.shape, self.model)(x_BCHW)


class _InPrecision(nn.Module):
    """A network's forward pass in the precision that autocast has where this is made, its backward pass outside of it.

    Without autocast's cache: a replayed pass would go on with the casts of the first step's weights.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._low, self._enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        with torch.autocast("cuda", dtype=self._low, enabled=self._enabled, cache_enabled=False):
            return cast(Tensor, self.model(x_BCHW))


def _record(model: nn.Module, x_BCHW: Tensor) -> Passes:
    """The passes over batches like `x_BCHW`, in the precision that autocast has now.

    Raises:
        RuntimeError: if they cannot be recorded.
    """
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    passes, example = _InPrecision(model), x_BCHW.clone()
    # torch warns of gradients that are added up, and waited for, on the stream of the recording; here that is always so.
    quieten = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)  # torch >= 2.10
    if quieten:
        quieten(False)
    alone = (torch.cuda.device(x_BCHW.device), torch.random.fork_rng([x_BCHW.device]), torch.autocast("cuda", enabled=False))
    with contextlib.ExitStack() as stack:
        for one in (*alone, _no_garbage()):
            stack.enter_context(one)
        try:
            _try(passes, example)
            return cast(Passes, torch.cuda.make_graphed_callables(passes, (example,), allow_unused_input=True))
        finally:  # as if the passes that warm up had not been
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(before[name])


def _try(passes: nn.Module, x_BCHW: Tensor) -> None:
    """Both passes once; to wait for the device is an error, which in a recording would leave random numbers unusable."""
    mode = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        logits_BK = passes(x_BCHW)
        weights = [weight for weight in passes.parameters() if weight.requires_grad]
        torch.autograd.grad(logits_BK, weights, torch.ones_like(logits_BK), allow_unused=True)
    finally:
        torch.cuda.set_sync_debug_mode(mode)


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Nothing is collected meanwhile: the end of an old graph would end a recording, too."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
