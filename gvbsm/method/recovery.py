"""The optimisation of one batch of synthetic images (METHOD.md section 3; paper algorithm 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from gvbsm.method.densification import densification_loss
from gvbsm.method.matching import StatisticsMatcher


@dataclass(frozen=True)
class RecoverySettings:
    """The loss and its minimisation; the field names are the settings'."""

    iterations: int
    lr: float
    betas: tuple[float, float]
    statistics_weight: float  # r
    densification_weight: float  # d
    tau: float
    normalise: str
    conv_drop: float  # beta
    backbone_order: str  # "round_robin" or "random"


class Recovery:
    """The optimisation of one batch: images x (B,C,S,S) in normalised space, labels (B,).

    `augment` gives a view (B,C,S,S) of each image and its labels (B,) or class probabilities (B,K). Every iteration passes the
    views to one backbone f and minimises

        L = CE(f(x), y) + r sum_l w_l L_l + d L_DD

    by Adam with a cosine step size that ends at 0, then clamps each channel to `limits`. `seed_of(t)` seeds torch's global
    generator for iteration t, so its random numbers do not depend on what ran before.
    """

    def __init__(
        self,
        x_BCHW: Tensor,
        labels_B: Tensor,
        matchers: list[StatisticsMatcher],
        settings: RecoverySettings,
        *,
        augment: Callable[[Tensor], tuple[Tensor, Tensor]],
        limits: tuple[Tensor, Tensor],
        seed_of: Callable[[int], int],
    ) -> None:
        self.x_BCHW = x_BCHW.clone().requires_grad_()
        self.labels_B = labels_B
        self.matchers = matchers
        self.settings = settings
        self.iteration = 0
        self._augment, self._limits, self._seed_of = augment, limits, seed_of
        self._adam = torch.optim.Adam([self.x_BCHW], lr=settings.lr, betas=settings.betas)

    def step(self) -> dict[str, float]:
        """One iteration; the loss and its parts."""
        torch.manual_seed(self._seed_of(self.iteration))
        for group in self._adam.param_groups:
            group["lr"] = self.settings.lr / 2 * (1 + math.cos(math.pi * self.iteration / self.settings.iterations))
        matcher = self.matchers[self._choose_backbone()]
        dropped = frozenset(name for name in matcher.conv_layers if torch.rand(()) < self.settings.conv_drop)
        parts = self._loss(matcher, dropped)
        self._adam.zero_grad(set_to_none=True)
        parts["loss"].backward()  # type: ignore[no-untyped-call]
        self._adam.step()
        with torch.no_grad():
            self.x_BCHW.clamp_(*self._limits)
        self.iteration += 1
        return {name: value.item() for name, value in parts.items()}

    def state(self) -> dict[str, Any]:
        """The state that the next iteration depends on."""
        averages = [matcher.averages for matcher in self.matchers]
        return {"x": self.x_BCHW, "iteration": self.iteration, "adam": self._adam.state_dict(), "averages": averages}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the `state()` of another process, its tensors on the device of x."""
        with torch.no_grad():
            self.x_BCHW.copy_(state["x"])
        self.iteration = state["iteration"]
        self._adam.load_state_dict(state["adam"])
        for matcher, averages in zip(self.matchers, state["averages"], strict=True):
            matcher.averages = averages

    def _choose_backbone(self) -> int:
        if self.settings.backbone_order == "random":
            return int(torch.randint(len(self.matchers), ()))
        return self.iteration % len(self.matchers)

    def _loss(self, matcher: StatisticsMatcher, dropped: frozenset[str]) -> dict[str, Tensor]:
        view_BCHW, view_labels = self._augment(self.x_BCHW)
        x_BCHW = view_BCHW.contiguous(memory_format=torch.channels_last)
        logits_BK, statistics = matcher(x_BCHW, dropped, self.labels_B)
        parts = {"ce": F.cross_entropy(logits_BK.float(), view_labels), "statistics": statistics}
        loss = parts["ce"] + self.settings.statistics_weight * statistics
        if self.settings.densification_weight:
            parts["densification"] = densification_loss(view_BCHW, self.labels_B, self.settings.tau, self.settings.normalise)
            loss = loss + self.settings.densification_weight * parts["densification"]
        return {"loss": loss, **parts}
