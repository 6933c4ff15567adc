"""The matching loss sum_l w_l L_l of one teacher over its hooked layers (METHOD.md section 3; paper section 3.3)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.method.layers import hooked_layers
from gvbsm.method.moments import Moments, class_moments, moments

Averages = dict[str, Moments]  # layer -> its EMA
Passed = tuple[Tensor, Tensor, Averages]  # logits (B,K), loss, averages after the pass


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
    class_statistics: float = 0.0  # share of L_l that is matched class by class
    selected_statistics: frozenset[tuple[str, str]] | None = None  # (layer, "channel" or "patch"); None: all


NO_MATCHING = Matching(patch_size=1, momentum=0.0, first_layer_weight=1.0, start="first", dropped="skip", layers=())


class _BatchClasses(NamedTuple):
    """The K classes of a batch."""

    members_KB: Tensor  # 1 where the image is of the class, else 0
    targets: dict[str, Moments]  # layer -> class_var and class_mean, each (K,C)


def ema_update(average: Tensor, value: Tensor, momentum: float | Tensor) -> Tensor:
    """m <- alpha m + (1 - alpha) s, without gradient."""
    return momentum * average + (1 - momentum) * value.detach()


def matching_term(target: Tensor, average: Tensor, value: Tensor) -> Tensor:
    """|| S - (m + s - stopgrad(s)) ||_2: the EMA's distance, with the gradient of the batch statistic. 0 at 0."""
    return torch.linalg.vector_norm(target - (average + value - value.detach()))


def class_term(target_KC: Tensor, value_KC: Tensor) -> Tensor:
    """sqrt(mean over classes of || S_k - s_k ||^2), s_k the class's moments in this batch alone: they have no EMA."""
    return torch.linalg.vector_norm(target_KC - value_KC) / len(target_KC) ** 0.5


class StatisticsMatcher:
    """A teacher whose forward pass also gives the matching loss of its layers' inputs.

    The targets of a BatchNorm layer are its own running moments. Those of a Conv layer are in `targets[layer]`: the moments
    of section 2. With `class_statistics` c, L_l is 1 - c times these terms plus c times the terms of each class's channel
    moments (EDC, Shao et al., NeurIPS 2024); their targets are in `targets[layer]`, for BatchNorm layers too.
    Use it as a context manager, which removes the hooks:

        with StatisticsMatcher(teacher, targets, matching) as matcher:
            logits, loss = matcher(x_BCHW, dropped={"conv3"})

    The pass runs in `autocast()`; moments and loss stay float32. With `compiled`, pass and statistics are one graph of
    torch.compile. The first batch of each shape then takes a minute or more, and every other one about as long as the
    teacher's uncompiled pass alone. Without `compiled`, a batch takes 1.5 times that pass or more. If compilation fails, for
    example because there is no compiler, `compiled` becomes False, a warning gives the reason, and the pass runs uncompiled.

    Raises:
        ValueError: if a Conv layer has no targets, or targets of another shape than its input gives.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: dict[str, Moments],
        matching: Matching,
        compiled: bool = False,
        *,
        autocast: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        self.model = model
        self._autocast = autocast
        self.matching = matching
        self.compiled = compiled
        self.averages: dict[str, Moments] = {}  # of the layers measured so far
        hooked = hooked_layers(model, matching.layers)
        self._targets = {name: self._target(name, module, targets) for name, module in hooked.items()}
        self.layers = {name: module for name, module in hooked.items() if self._targets[name]}
        self._class_targets = {name: self._class_target(name, targets) for name in self.layers}
        self._first = next(iter(hooked), None)
        self._inputs: list[tuple[str, Tensor]] = []
        self._hooks = [
            module.register_forward_pre_hook(lambda _, inputs, name=name: self._inputs.append((name, inputs[0])))
            for name, module in self.layers.items()
        ]
        self._graph = torch.compile(self._pass, dynamic=False) if compiled else None
        self._compiled_shapes: set[tuple[torch.Size, ...]] = set()

    def __enter__(self) -> StatisticsMatcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()

    def __call__(
        self, x_BCHW: Tensor, dropped: Collection[str] = frozenset(), labels_B: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Logits (B,K) and the weighted statistics loss, a scalar, of this batch; the EMAs advance by one step.
        `class_statistics` needs the labels."""
        alpha = self.matching.momentum
        before = {name: self.averages.get(name) or self._zeros(name) for name in self.layers}
        # A first value becomes the average as it is.
        first = {name for name in self.layers if self.matching.start == "first" and name not in self.averages}
        momenta = {name: 0.0 if name in first else alpha for name in self.layers}
        active = {name: name not in dropped for name in self.layers}
        with self._autocast():
            classes = self._batch_classes(labels_B, x_BCHW) if self.matching.class_statistics else None
            result = self._run_graph(x_BCHW, before, momenta, active, classes) if self._graph is not None else None
            logits_BK, loss, averages = result or self._pass(x_BCHW, before, momenta, active, classes)
        skipped = dropped if self.matching.dropped == "skip" else ()
        self.averages |= {name: average for name, average in averages.items() if name not in skipped}
        return logits_BK, loss

    @property
    def conv_layers(self) -> list[str]:
        """Names of the hooked Conv layers, those that may be dropped."""
        return [name for name, module in self.layers.items() if isinstance(module, nn.Conv2d)]

    def _target(self, name: str, module: nn.Module, targets: dict[str, Moments]) -> Moments:
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            own_moments = {"channel_var": module.running_var, "channel_mean": module.running_mean}
            return own_moments if self._is_selected(name, "channel") else {}
        kinds = [kind for kind in self.matching.conv_statistics if self._is_selected(name, kind)]
        required = [f"{kind}_{moment}" for kind in kinds for moment in ("var", "mean")]
        missing = [moment for moment in required if moment not in targets.get(name, {})]
        if missing:
            raise ValueError(
                f"statistics of layer {name!r}: expected {', '.join(required)}, got none of {missing}; remake them"
            )
        parameter = next(module.parameters())
        return {moment: targets[name][moment].to(parameter.device, parameter.dtype) for moment in required}

    def _is_selected(self, layer: str, kind: str) -> bool:
        selected = self.matching.selected_statistics
        return selected is None or (layer, kind) in selected

    def _class_target(self, name: str, targets: dict[str, Moments]) -> Moments:
        """The moments of every class of a layer's input, each (K,C), if they are matched."""
        required = ("class_var", "class_mean") if self.matching.class_statistics else ()
        missing = [moment for moment in required if moment not in targets.get(name, {})]
        if missing:
            raise ValueError(
                f"statistics of layer {name!r}: expected {', '.join(required)}, got none of {missing}; remake them"
            )
        parameter = next(self.model.parameters())
        return {moment: targets[name][moment].to(parameter.device, parameter.dtype) for moment in required}

    def _batch_classes(self, labels_B: Tensor | None, x_BCHW: Tensor) -> _BatchClasses:
        """The classes that occur in a batch, ascending."""
        if labels_B is None:
            raise ValueError("labels: expected those of the batch, since statistics are matched class by class, got none")
        labels_K = labels_B.unique()
        members_KB = (labels_K.unsqueeze(1) == labels_B).to(x_BCHW.dtype)
        targets = {
            name: {moment: target[labels_K] for moment, target in self._class_targets[name].items()} for name in self.layers
        }
        return _BatchClasses(members_KB, targets)

    def _zeros(self, name: str) -> Moments:
        return {kind: torch.zeros_like(target) for kind, target in self._targets[name].items()}

    def _run_graph(
        self,
        x_BCHW: Tensor,
        before: Averages,
        momenta: dict[str, float],
        active: dict[str, bool],
        classes: _BatchClasses | None,
    ) -> Passed | None:
        """The pass as a compiled graph, whose inputs include `momenta` and `active`; None if it cannot be compiled."""
        assert self._graph is not None

        def scalars(numbers: Mapping[str, float]) -> dict[str, Tensor]:
            values = torch.tensor(list(numbers.values()), dtype=x_BCHW.dtype, device=x_BCHW.device)
            return dict(zip(numbers, values.unbind(), strict=True))

        arguments = (before, scalars(momenta), scalars(active), classes)
        shapes = (x_BCHW.shape, *([classes.members_KB.shape] if classes else []))
        if shapes not in self._compiled_shapes:
            try:  # forward and backward once, while the uncompiled pass can still replace them
                probe = x_BCHW.detach().clone().requires_grad_()
                logits_BK, loss, _ = self._graph(probe, *arguments)
                (logits_BK.sum() + loss).backward()
            except (ValueError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # torch raises many kinds without a working compiler
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"not compiled: {reason}", stacklevel=2)
                self.compiled, self._graph = False, None
                return None
            self._compiled_shapes.add(shapes)
        return self._graph(x_BCHW, *arguments)

    def _pass(
        self,
        x_BCHW: Tensor,
        before: Averages,
        momenta: Mapping[str, float | Tensor],
        active: Mapping[str, bool | Tensor],
        classes: _BatchClasses | None,
    ) -> Passed:
        """Logits, loss, and the averages of the layers whose inputs were measured."""
        self._inputs = []
        logits_BK = self.model(x_BCHW)
        inputs, self._inputs = self._inputs, []
        if self.matching.dropped == "skip":
            inputs = [(name, x) for name, x in inputs if active[name] is not False]
        after: Averages = {}
        terms = []
        for (name, x), values in zip(inputs, self._moments(inputs, active), strict=True):
            averages = after.get(name, before[name])
            momentum = self.matching.momentum if name in after else momenta[name]
            after[name], term = {}, logits_BK.new_zeros(())
            for kind, target in self._targets[name].items():
                value = values[kind]
                if value.shape != target.shape:
                    raise ValueError(
                        f"{kind} of layer {name!r}: expected {tuple(target.shape)} as in the statistics, got "
                        f"{tuple(value.shape)}; make the statistics at this image and patch size"
                    )
                after[name][kind] = ema_update(averages[kind], value, momentum)
                term = term + matching_term(target, after[name][kind], value)
            if classes is not None:
                mean_KC, var_KC = class_moments(x, classes.members_KB)
                class_targets = classes.targets[name]
                class_terms = class_term(class_targets["class_mean"], mean_KC) + class_term(class_targets["class_var"], var_KC)
                term = (1 - self.matching.class_statistics) * term + self.matching.class_statistics * class_terms
            weight = self.matching.first_layer_weight if name == self._first else 1.0
            terms.append(weight * term * active[name])
        return logits_BK, torch.stack(terms).sum() if terms else logits_BK.new_zeros(()), after

    def _moments(self, inputs: list[tuple[str, Tensor]], active: Mapping[str, bool | Tensor]) -> list[Moments]:
        """Moments of every input. A tensor that several layers read is measured once; compiled code does so by itself."""
        results: list[Moments] = []
        by_tensor: dict[int, Moments] = {}
        for name, x_BCHW in inputs:
            kinds = tuple(dict.fromkeys(kind.partition("_")[0] for kind in self._targets[name]))
            if torch.compiler.is_compiling():
                results.append(moments(x_BCHW, kinds, self.matching.patch_size))
                continue
            result = by_tensor.setdefault(id(x_BCHW), {})
            missing = tuple(kind for kind in kinds if f"{kind}_mean" not in result)
            if missing:
                has_gradient = torch.is_grad_enabled() and any(active[name] for name, x in inputs if x is x_BCHW)
                with torch.set_grad_enabled(has_gradient):
                    result |= moments(x_BCHW, missing, self.matching.patch_size)
            results.append(result)
        return results
