"""CUDA graphs of a network that trains on small batches, whose kernels take less time than it takes to launch them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

Passes = Callable[[Tensor], Tensor]

_MOST = 2**21  # values of a batch: with more of them the kernels take longer than their launches, and a graph keeps its memory


class Replayed(nn.Module):
    """A network whose passes over small batches are recorded, a graph per shape, and replayed; on CUDA alone.

    What a step computes is the same; its launches are one for the forward and one for the backward pass. Only passes that
    train and begin a step are replayed: gradients lie where the recording put them, and another pass would write over them.
    Of a network that waits for its own values nothing is recorded, and a warning says why.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._weights = list(model.parameters())
        self._graphs: dict[torch.Size, Passes] = {}
        self._fails = False

    def forward(self, x_BCHW: Tensor) -> Tensor:
        begins = self.training and torch.is_grad_enabled() and all(weight.grad is None for weight in self._weights)
        if self._fails or not begins or x_BCHW.numel() > _MOST:
            return self.model(x_BCHW)
        if x_BCHW.shape not in self._graphs:
            try:
                self._graphs[x_BCHW.shape] = _record(self.model, x_BCHW)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                warnings.warn(f"trained without CUDA graphs: {str(error).strip().splitlines()[0]}", stacklevel=2)
                self._fails = True
                return self.model(x_BCHW)
        return self._graphs[x_BCHW.shape](x_BCHW)


def _record(model: nn.Module, x_BCHW: Tensor) -> Passes:
    """The passes over batches like `x_BCHW`, in the precision that autocast has now."""
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    # torch warns that gradients are added up on the recording's stream, and waited for there; that is all it is.
    quieten = getattr(torch.autograd.graph, "set_warn_on_accumulate_grad_stream_mismatch", None)  # torch >= 2.10
    if quieten:
        quieten(False)
    whole = nn.Sequential(model)  # gets another `forward`, and the network keeps its own
    # Without autocast's cache: a replayed pass would go on with the casts of the first step's weights.
    low, enabled = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
    with torch.random.fork_rng([x_BCHW.device]), torch.autocast("cuda", dtype=low, enabled=enabled, cache_enabled=False):
        try:
            return cast(Passes, torch.cuda.make_graphed_callables(whole, (x_BCHW.clone(),), allow_unused_input=True))
        finally:  # as if the passes that warm up had not been
            with torch.no_grad():
                for name, buffer in model.named_buffers():
                    buffer.copy_(before[name])
