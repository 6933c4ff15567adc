"""The matching loss sum_l w_l L_l of one teacher over its hooked layers (METHOD.md section 3; paper section 3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor, nn

from gvbsm.method.moments import Moments, moments


@dataclass(frozen=True)
class Matching:
    """What is matched and how; the field names are the settings'."""

    patch_size: int
    momentum: float  # alpha of the EMA
    first_layer_weight: float  # w of the first hooked layer, 1 for every other
    start: str  # "zero" (published) or "first": what the EMA holds before the first batch
    dropped: str  # "skip" (published) or "update": the EMA of a layer dropped in this iteration
    layers: tuple[str, ...] = ("batchnorm", "conv")
    conv_statistics: tuple[str, ...] = ("channel", "patch")


def hooked_layers(model: nn.Module, layers: tuple[str, ...]) -> dict[str, nn.Module]:
    """The Conv2d and BatchNorm2d modules whose inputs are matched, in `named_modules()` order."""
    classes: dict[str, type[nn.Module]] = {"batchnorm": nn.BatchNorm2d, "conv": nn.Conv2d}
    kinds = tuple(classes[layer] for layer in layers)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def ema_update(average: Tensor | None, value: Tensor, momentum: float) -> Tensor:
    """m <- alpha m + (1 - alpha) s, without gradient; a first value with no average before it is the average."""
    value = value.detach()
    return value.clone() if average is None else momentum * average + (1 - momentum) * value


def matching_term(target: Tensor, average: Tensor, value: Tensor) -> Tensor:
    """|| S - (m + s - stopgrad(s)) ||_2: the EMA's distance, with the gradient of the batch statistic. 0 at 0."""
    return torch.linalg.vector_norm(target - (average + value - value.detach()))


class StatisticsMatcher:
    """Hooks on a teacher that collect the matching loss during a forward pass.

    Targets of a BatchNorm layer are its own running moments; of a Conv layer `targets[layer]`, the moments of section 2.
    Use as a context manager, which removes the hooks:

        with StatisticsMatcher(teacher, targets, matching) as matcher:
            logits, loss = matcher(x_BCHW, dropped={"conv3"})

    Raises:
        ValueError: if a Conv layer has no targets, or targets of another shape than its input gives.
    """

    def __init__(self, model: nn.Module, targets: dict[str, Moments], matching: Matching) -> None:
        self.model = model
        self.matching = matching
        self.averages: dict[str, Moments] = {}
        self.layers = hooked_layers(model, matching.layers)
        self._targets = {name: self._target(name, module, targets) for name, module in self.layers.items()}
        self._first = next(iter(self.layers), None)
        self._dropped: frozenset[str] = frozenset()
        self._terms: list[Tensor] = []
        self._hooks = [
            module.register_forward_pre_hook(lambda _, inputs, name=name: self._visit(name, inputs[0]))
            for name, module in self.layers.items()
        ]

    def __enter__(self) -> StatisticsMatcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()

    def __call__(self, x_BCHW: Tensor, dropped: frozenset[str] = frozenset()) -> tuple[Tensor, Tensor]:
        """Logits (B,K) and the weighted statistics loss, a scalar, of this batch; the EMAs advance by one step."""
        self._dropped = dropped
        self._terms = []
        logits_BK = self.model(x_BCHW)
        terms, self._terms = self._terms, []
        return logits_BK, torch.stack(terms).sum() if terms else logits_BK.new_zeros(())

    @property
    def conv_layers(self) -> list[str]:
        """Names of the hooked Conv layers, those that may be dropped."""
        return [name for name, module in self.layers.items() if isinstance(module, nn.Conv2d)]

    def _target(self, name: str, module: nn.Module, targets: dict[str, Moments]) -> Moments:
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            return {"channel_var": module.running_var, "channel_mean": module.running_mean}
        wanted = [f"{kind}_{moment}" for kind in self.matching.conv_statistics for moment in ("var", "mean")]
        missing = [kind for kind in wanted if kind not in targets.get(name, {})]
        if missing:
            raise ValueError(f"statistics of layer {name!r}: expected {', '.join(wanted)}, got none of {missing}; remake them")
        parameter = next(module.parameters())
        return {kind: targets[name][kind].to(parameter.device, parameter.dtype) for kind in wanted}

    def _visit(self, name: str, x_BCHW: Tensor) -> None:
        if name not in self._dropped:
            self._terms.append((self.matching.first_layer_weight if name == self._first else 1.0) * self._term(name, x_BCHW))
        elif self.matching.dropped == "update":
            with torch.no_grad():
                self._term(name, x_BCHW.detach())

    def _term(self, name: str, x_BCHW: Tensor) -> Tensor:
        """L_l: two terms for BatchNorm, four for Conv."""
        targets = self._targets[name]
        kinds = tuple(dict.fromkeys(kind.partition("_")[0] for kind in targets))
        found = moments(x_BCHW, kinds, self.matching.patch_size)
        averages = self.averages.setdefault(name, {})
        losses = []
        for kind, target in targets.items():
            value = found[kind]
            if value.shape != target.shape:
                raise ValueError(
                    f"{kind} of layer {name!r}: expected {tuple(target.shape)} as in the statistics, got "
                    f"{tuple(value.shape)}; make the statistics at this image and patch size"
                )
            before = averages.get(kind)
            if before is None and self.matching.start == "zero":
                before = torch.zeros_like(target)
            averages[kind] = ema_update(before, value, self.matching.momentum)
            losses.append(matching_term(target, averages[kind], value))
        return torch.stack(losses).sum()
