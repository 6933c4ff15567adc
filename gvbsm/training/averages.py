"""The moving average of a network's weights during its training."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn

from gvbsm.backbones.weights import load_own
from gvbsm.runtime.checkpoints import State


class MovingAverage:
    """m <- d m + (1 - d) w of a network's weights w, d = min(largest, (1 + t) / (10 + t)) after t steps; at first m <- w.

    So a short training forgets its first weights too: until d reaches `largest`, the last tenth of the steps has more than
    half of the weight (the schedule of tf.train.ExponentialMovingAverage). torch's AveragedModel could follow this schedule,
    but it keeps the number of steps on the device and waits for it at every step.
    """

    def __init__(self, model: nn.Module, largest: float) -> None:
        self._largest = largest
        self._model, self._module = model, deepcopy(model)
        self._weights: tuple[list[Tensor], list[Tensor]] = list(model.parameters()), list(self._module.parameters())
        self._steps = 0
        self._share = torch.ones((), device=self._weights[0][0].device)  # 1 - d

    def advance(self) -> None:
        """Write the decay of the next step into its tensor."""
        decay = min(self._largest, (1 + self._steps) / (10 + self._steps)) if self._steps else 0.0
        self._share.fill_(1 - decay)
        self._steps += 1

    @torch.no_grad()
    def add(self) -> None:
        """Add the weights after a step, on the device alone."""
        weights, averaged = self._weights
        if self._share.is_cuda:  # three launches in all
            changes = torch._foreach_sub(weights, averaged)
            torch._foreach_mul_(changes, self._share)
            torch._foreach_add_(averaged, changes)
        else:  # one pass over the memory
            torch._foreach_lerp_(averaged, weights, [self._share] * len(weights))  # type: ignore[list-item]

    def tensors(self) -> list[Tensor]:
        """What `add` changes."""
        return self._weights[1]

    def module(self) -> nn.Module:
        """The network with averaged weights and the buffers of the trained network: BatchNorm's statistics are averages
        already; averaged again, they lag behind the weights (measured at a9cdd2d)."""
        with torch.no_grad():
            for averaged, trained in zip(self._module.buffers(), self._model.buffers(), strict=True):
                averaged.copy_(trained)
        return self._module

    def state(self) -> State:
        """The state from which another process continues."""
        return {"steps": self._steps, "module": self._module.state_dict()}

    def restore(self, state: State) -> None:
        """Continue from a `state()`."""
        self._steps = state["steps"]
        load_own(self._module, state["module"])
