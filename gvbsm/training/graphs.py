"""CUDA graphs for training on small batches, whose kernels take less time than their launches."""

from __future__ import annotations

import contextlib
import gc
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Passes = Callable[..., Tensor]  # (batch, *weights) -> logits

_MOST = 2**21  # values of a batch: for larger batches launches do not matter, and a graph keeps its memory


class Replayed(nn.Module):
    """A network whose training passes over small batches are recorded, one CUDA graph per shape, and replayed.

    The results are the same, with one launch for the forward and one for the backward pass. Only the first pass of a training
    step is replayed, from the second batch of a shape on: a graph writes gradients to fixed memory, which a second pass in the
    same step would overwrite. A random branch in Python code is replayed as it was recorded. A network that reads its own
    values back from the device cannot be recorded; it runs without graphs, and a warning gives the reason.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._weights = list(model.parameters())
        self._shapes: set[torch.Size] = set()  # of earlier batches
        self._graphs: dict[torch.Size, Passes] = {}
        self._fails = False

    def forward(self, x_BCHW: Tensor) -> Tensor:
        is_first_pass = self.training and torch.is_grad_enabled() and all(weight.grad is None for weight in self._weights)
        if self._fails or not is_first_pass or x_BCHW.numel() > _MOST:
            return self.model(x_BCHW)
        if x_BCHW.shape in self._shapes and x_BCHW.shape not in self._graphs:
            try:
                self._graphs[x_BCHW.shape] = _record(self.model, x_BCHW)
            except RuntimeError as error:
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"trained without CUDA graphs: {reason}", stacklevel=2)
                self._fails = True
        self._shapes.add(x_BCHW.shape)
        replayed = self._graphs.get(x_BCHW.shape)
        return replayed(x_BCHW, *self._weights) if replayed else self.model(x_BCHW)


def passes_of(model: nn.Module) -> tuple[Passes, list[Tensor]]:
    """A network's forward pass as a function of a batch and its weights, in the current precision of autocast; and aliases of
    the weights, new tensors over the same memory. Recording fails if a loss still refers to the weights that it uses.

    The backward pass is outside autocast. Casts are not cached: a replayed pass would use the casts of the first step.
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
        torch.cuda.stream(
            torch.cuda.current_stream(x_BCHW.device)
        ),  # restores stream and device at the end, also after an error
        torch.random.fork_rng([x_BCHW.device]),
        torch.autocast("cuda", enabled=False),
        _no_garbage(),
    ):
        try:
            _try(passes, example, aliases)
            replayed: Any = torch.cuda.make_graphed_callables(passes, (example, *aliases), allow_unused_input=True)
        finally:  # undo what the warm-up passes did to the buffers
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(before[name])
    return replayed


def _try(passes: Passes, x_BCHW: Tensor, weights: Sequence[Tensor]) -> None:
    """Both passes once, with waiting for the device an error: the same error in a recording would break random numbers."""
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
    """Collect no garbage during the block: the deletion of an old graph would make the recording fail."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
