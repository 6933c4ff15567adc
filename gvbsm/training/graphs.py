"""CUDA graphs of a network that trains on small batches, whose kernels take less time than it takes to launch them."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Passes = Callable[..., Tensor]  # of a batch and the weights

_MOST = 2**21  # values of a batch: with more of them the kernels take longer than their launches, and a graph keeps its memory


class Replayed(nn.Module):
    """A network whose passes over small batches are recorded, a graph per shape, and replayed; on CUDA alone.

    What a step computes is the same; its launches are one for the forward and one for the backward pass. Replayed are passes
    that train and begin a step, over a shape that has been seen before: gradients lie where the recording put them, and
    another pass before the next step would write over them. A branch that Python takes by chance is taken as it was recorded.
    Of a network that waits for its own values nothing is recorded, and a warning says why.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._weights = list(model.parameters())
        self._seen: set[torch.Size] = set()
        self._graphs: dict[torch.Size, Passes] = {}
        self._fails = False

    def forward(self, x_BCHW: Tensor) -> Tensor:
        begins = self.training and torch.is_grad_enabled() and all(weight.grad is None for weight in self._weights)
        if self._fails or not begins or x_BCHW.numel() > _MOST:
            return self.model(x_BCHW)
        if x_BCHW.shape in self._seen and x_BCHW.shape not in self._graphs:
            try:
                self._graphs[x_BCHW.shape] = _record(self.model, x_BCHW)
            except RuntimeError as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"trained without CUDA graphs: {reason}", stacklevel=2)
                self._fails = True
        self._seen.add(x_BCHW.shape)
        replayed = self._graphs.get(x_BCHW.shape)
        return replayed(x_BCHW, *self._weights) if replayed else self.model(x_BCHW)


def passes_of(model: nn.Module) -> tuple[Passes, list[Tensor]]:
    """A network's forward pass, in the precision that autocast has now, as a function of a batch and its weights; and aliases
    of these, tensors of their own over the same memory: a loss that still holds on to the weights would end a recording.

    The backward pass is outside of autocast, and there is no cache of casts: a replayed pass would go on with the first step's.
    """
    names, weights = zip(*model.named_parameters(), strict=True)
    low, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")

    def passes(x_BCHW: Tensor, *weights: Tensor) -> Any:
        with torch.autocast("cuda", dtype=low, enabled=enabled, cache_enabled=False):
            return torch.func.functional_call(model, dict(zip(names, weights, strict=True)), (x_BCHW,))

    return passes, [weight.detach().requires_grad_(weight.requires_grad) for weight in weights]


def _record(model: nn.Module, x_BCHW: Tensor) -> Passes:
    """The passes over batches like `x_BCHW`.

    Raises:
        RuntimeError: if they cannot be recorded.
    """
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    passes, aliases = passes_of(model)
    example = x_BCHW.clone()
    with (
        torch.cuda.stream(torch.cuda.current_stream(x_BCHW.device)),  # and device, whatever happens
        torch.random.fork_rng([x_BCHW.device]),
        torch.autocast("cuda", enabled=False),
        _no_garbage(),
    ):
        try:
            _try(passes, example, aliases)
            replayed: Any = torch.cuda.make_graphed_callables(passes, (example, *aliases), allow_unused_input=True)
        finally:  # as if the passes that warm up had not been
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(before[name])
    return replayed


def _try(passes: Passes, x_BCHW: Tensor, weights: Sequence[Tensor]) -> None:
    """Both passes once; to wait for the device is an error, which in a recording would leave random numbers unusable."""
    mode = torch.cuda.get_sync_debug_mode()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Synchronization debug mode")
        torch.cuda.set_sync_debug_mode("error")
    try:
        logits_BK = passes(x_BCHW, *weights)
        trained = [weight for weight in weights if weight.requires_grad]
        torch.autograd.grad(logits_BK, trained, torch.ones_like(logits_BK), allow_unused=True)
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
