"""The matching loss sum_l w_l L_l of one teacher over its hooked layers (paper section 3.3)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gvbsm.method.frozen_norms import freeze_norms, thaw_norms
from gvbsm.method.layers import hooked_layers
from gvbsm.method.measuring import Measuring, Segment, calls_of
from gvbsm.method.moments import KINDS, Moments, class_moments
from gvbsm.method.reasons import first_line


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
    variance_weight: float = 1.0  # of each variance's term; a mean's has 1


NO_MATCHING = Matching(patch_size=1, momentum=0.0, first_layer_weight=1.0, start="first", dropped="skip", layers=())


class BatchClasses(NamedTuple):
    """The K classes of a batch."""

    members_KB: Tensor  # 1 where the image is of the class, else 0
    targets: dict[str, Moments]  # layer -> class_var and class_mean, each (K,C)


def ema_update(average: Tensor, value: Tensor, momentum: Tensor) -> Tensor:
    """m <- alpha m + (1 - alpha) s, without gradient."""
    return momentum * average + (1 - momentum) * value.detach()


def matching_terms(target: Tensor, average: Tensor, value: Tensor, sizes: Sequence[int], starts_S1: Tensor) -> Tensor:
    """|| S - (m + s - stopgrad(s)) ||_2 of each of S segments of one vector: the EMA's distance, with the gradient of the batch
    statistic. At 0 the gradient is 0. `sizes` are those of the segments, and `starts_S1`, on the device, where each starts, and
    where the last one ends."""
    squares = (target - (average + value - value.detach())).square()
    if squares.device.type == "mps":  # it has no such sums
        sums_S = torch.stack([part.sum() for part in squares.split(list(sizes))])
    else:  # from lengths CUDA would first add up the starts, in the backward pass too
        sums_S = torch.segment_reduce(squares, "sum", offsets=starts_S1, unsafe=True)  # safe ones wait for the device
    return sums_S.clamp_min(torch.finfo(sums_S.dtype).tiny).sqrt()


def class_term(target_KC: Tensor, value_KC: Tensor) -> Tensor:
    """sqrt(mean over classes of || S_k - s_k ||^2), s_k the class's moments in this batch alone: they have no EMA."""
    return torch.linalg.vector_norm(target_KC - value_KC) / len(target_KC) ** 0.5


class StatisticsMatcher:
    """A teacher whose forward pass also gives the matching loss of its layers' inputs.

    The targets of a BatchNorm layer are its own running moments. Those of a Conv layer are in `targets[layer]`: the moments
    of section 2. With `class_statistics` c, L_l is 1 - c times these terms plus c times the terms of each class's channel
    moments; their targets are in `targets[layer]`, for BatchNorm layers too. The terms are ours, after the equation of EDC
    (Shao et al., NeurIPS 2024): its scripts compare the mean over the batch's classes with the batch's average.
    Use it as a context manager, which removes the hooks, and gives the teacher's BatchNorms their own gradient back
    (`frozen_norms`):

        with StatisticsMatcher(teacher, targets, matching) as matcher:
            logits, loss = matcher(x_BCHW, dropped={"conv3"})

    The pass runs in `autocast()`; moments and loss stay float32. With `compiled`, pass and statistics are one graph of
    torch.compile. The first batch of each shape then takes a minute or more, and every other one about as long as the
    teacher's uncompiled pass alone. Without `compiled`, a batch takes 1.5 times that pass or more. If compilation fails, for
    example because there is no compiler, `compiled` becomes False, `not_compiled` and a warning give the reason, and the pass
    runs uncompiled.

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
        self.compiled, self.not_compiled = compiled, ""
        hooked = hooked_layers(model, matching.layers)
        self._targets = {name: self._target(name, module, targets) for name, module in hooked.items()}
        self.layers = {name: module for name, module in hooked.items() if self._targets[name]}
        self._class_targets = {name: self._class_target(name, targets) for name in self.layers}
        self._inputs: list[tuple[str, Tensor]] = []
        self._parts: dict[int, Tensor] = {}  # of the sums of these inputs, of those that have them from their layer
        self._hooks = [
            module.register_forward_pre_hook(lambda _, inputs, name=name: self._inputs.append((name, inputs[0])))
            for name, module in self.layers.items()
        ]
        self._frozen = [] if compiled else self._freeze()
        self._lay_out(next(iter(hooked), None))
        self._graph = torch.compile(self._pass, dynamic=False) if compiled else None
        self._compiled_shapes: set[tuple[torch.Size, ...]] = set()

    def _freeze(self) -> list[nn.Module]:
        def keep(x_BCHW: Tensor, parts: Tensor) -> None:
            self._parts[id(x_BCHW)] = parts

        return freeze_norms(self.model, dict.fromkeys(self.layers.values(), keep))

    def _lay_out(self, first: str | None) -> None:
        """One vector for all targets and averages: all means, then all variances, as `Measuring` gives them."""
        segments = [
            Segment(name, kind, len(kinds[f"{kind}_mean"]))
            for name, kinds in self._targets.items()
            for kind in KINDS
            if f"{kind}_mean" in kinds
        ]
        self._measuring = Measuring(segments, self.matching.patch_size)
        self._sizes = [segment.size for segment in segments] * 2
        like = next(self.model.parameters())
        device, dtype = like.device, torch.promote_types(like.dtype, torch.float32)
        parts = [self._targets[name][f"{kind}_{moment}"] for moment in ("mean", "var") for name, kind, _ in segments]
        self._target_N = torch.cat([part.to(device, dtype) for part in parts]) if parts else torch.zeros(0)
        sizes_S = torch.tensor(self._sizes, device=device, dtype=torch.int64)
        self._starts_S1 = F.pad(sizes_S.cumsum(0), (1, 0))
        places = {name: at for at, name in enumerate(self.layers)}
        self._layer_of_S = torch.tensor([places[segment.layer] for segment in segments] * 2, device=device, dtype=torch.int64)
        self._layer_of_N = self._layer_of_S.repeat_interleave(sizes_S)
        weights = [self.matching.first_layer_weight if name == first else 1.0 for name in self.layers]
        self._weight_L = torch.tensor(weights, device=device, dtype=dtype)
        self._bits = torch.tensor([0.0, 1.0], device=device, dtype=dtype).unbind()
        of_moments = torch.tensor([1.0, self.matching.variance_weight], device=device, dtype=dtype)
        self._weight_S = self._weight_L[self._layer_of_S] * of_moments.repeat_interleave(len(segments))
        self.average_N = torch.zeros_like(self._target_N)
        self.started = [False] * len(self.layers)

    def reset(self) -> None:
        """Forget the averages."""
        self.average_N.zero_()
        self.started = [False] * len(self.layers)

    def __enter__(self) -> StatisticsMatcher:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        for hook in self._hooks:
            hook.remove()
        thaw_norms(self._frozen)
        self._frozen = []

    def schedule(self, dropped_NL: Tensor) -> tuple[Tensor, Tensor]:
        """What the next N passes do to each layer, if they drop those that are marked: the momentum of its average, and its
        share of the loss (0 or 1), each (N,L) in float64 on the CPU. A layer that is not measured keeps its average, whose
        momentum is 1."""
        measured_NL = self._measured(dropped_NL)
        momenta_NL = torch.ones(dropped_NL.shape, dtype=torch.float64).masked_fill_(measured_NL, self.matching.momentum)
        if self.matching.start == "first":  # a first value becomes the average as it is
            momenta_NL[measured_NL & (measured_NL.cumsum(0) == 1) & ~torch.tensor(self.started, dtype=torch.bool)] = 0.0
        return momenta_NL, (~dropped_NL).double()

    def count(self, dropped_NL: Tensor) -> None:
        """These passes are made: averages that they began have started."""
        measured_L = self._measured(dropped_NL).any(0).tolist()
        self.started = [before or now for before, now in zip(self.started, measured_L, strict=True)]

    def _measured(self, dropped_NL: Tensor) -> Tensor:
        return torch.ones_like(dropped_NL) if self.matching.dropped == "update" else ~dropped_NL

    def pass_through(
        self,
        x_BCHW: Tensor,
        momenta_L: Tensor,
        active_L: Tensor,
        classes: BatchClasses | None = None,
        dropped: frozenset[str] = frozenset(),
    ) -> tuple[Tensor, Tensor]:
        """Logits (B,K) and the weighted statistics loss, a scalar, by the numbers of a `schedule` on the device; the averages
        are changed in place. `class_statistics` needs the `classes_of` the labels.

        `dropped` only saves time: these layers are measured without gradient or not at all. Empty, the operations do not
        depend on what is dropped.
        """
        with self._autocast():
            result = self._run_graph(x_BCHW, momenta_L, active_L, classes) if self._graph is not None else None
            logits_BK, loss, average_N = result or self._pass(x_BCHW, self.average_N, momenta_L, active_L, classes, dropped)
        self.average_N.copy_(average_N)
        return logits_BK, loss

    def logits(self, x_BCHW: Tensor) -> Tensor:
        """Logits (B,K) alone; nothing is measured, and the averages stay."""
        with self._autocast():
            logits_BK = self.model(x_BCHW)
        self._inputs, self._parts = [], {}
        return logits_BK

    @property
    def averages(self) -> dict[str, Moments]:
        """layer -> its EMA, of the layers measured so far."""
        averages = self._measuring.by_layer(self.average_N)
        return {name: averages[name] for name, started in zip(self.layers, self.started, strict=True) if started}

    @property
    def conv_layers(self) -> list[str]:
        """Names of the hooked Conv layers, those that may be dropped."""
        return [name for name, module in self.layers.items() if isinstance(module, nn.Conv2d)]

    def classes_of(self, labels_B: Tensor | None) -> BatchClasses | None:
        """The classes that occur in a batch, ascending; None if no statistics are matched class by class."""
        if not self.matching.class_statistics:
            return None
        if labels_B is None:
            raise ValueError("labels: expected those of the batch, since statistics are matched class by class, got none")
        labels_K = labels_B.unique()
        members_KB = (labels_K.unsqueeze(1) == labels_B).to(self._weight_L.dtype)
        targets = {
            name: {moment: target[labels_K] for moment, target in self._class_targets[name].items()} for name in self.layers
        }
        return BatchClasses(members_KB, targets)

    def _target(self, name: str, module: nn.Module, targets: dict[str, Moments]) -> Moments:
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            own_moments = {"channel_var": module.running_var, "channel_mean": module.running_mean}
            return own_moments if self._is_selected(name, "channel") else {}
        kinds = [kind for kind in self.matching.conv_statistics if self._is_selected(name, kind)]
        return self._required(name, targets, [f"{kind}_{moment}" for kind in kinds for moment in ("var", "mean")])

    def _is_selected(self, layer: str, kind: str) -> bool:
        selected = self.matching.selected_statistics
        return selected is None or (layer, kind) in selected

    def _class_target(self, name: str, targets: dict[str, Moments]) -> Moments:
        """The moments of every class of a layer's input, each (K,C), if they are matched."""
        return self._required(name, targets, ["class_var", "class_mean"] if self.matching.class_statistics else [])

    def _required(self, name: str, targets: dict[str, Moments], required: list[str]) -> Moments:
        """These of a layer's targets, on the teacher's device, in at least float32."""
        missing = [moment for moment in required if moment not in targets.get(name, {})]
        if missing:
            raise ValueError(
                f"statistics of layer {name!r}: expected {', '.join(required)}, got none of {missing}; remake them"
            )
        like = next(self.model.parameters())
        dtype = torch.promote_types(like.dtype, torch.float32)
        return {moment: targets[name][moment].to(like.device, dtype) for moment in required}

    def _run_graph(
        self, x_BCHW: Tensor, momenta_L: Tensor, active_L: Tensor, classes: BatchClasses | None
    ) -> tuple[Tensor, Tensor, Tensor] | None:
        """The pass as a compiled graph, whose inputs include momenta and shares; None if it cannot be compiled."""
        assert self._graph is not None
        arguments = (self.average_N, momenta_L, active_L, classes)
        shapes = (x_BCHW.shape, *([classes.members_KB.shape] if classes else []))
        if shapes not in self._compiled_shapes:
            try:  # forward and backward once, while the uncompiled pass can still replace them
                probe = x_BCHW.detach().clone().requires_grad_()
                logits_BK, loss, _ = self._graph(probe, *arguments)
                (logits_BK.sum() + loss).backward()
            except (ValueError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # torch raises many kinds without a working compiler
                if isinstance(error, torch._dynamo.exc.FailOnRecompileLimitHit):
                    raise
                self.not_compiled = first_line(error)
                warnings.warn(f"not compiled: {self.not_compiled}", stacklevel=2)
                self.compiled, self._graph, self._frozen = False, None, self._freeze()
                return None
            self._compiled_shapes.add(shapes)
        return self._graph(x_BCHW, *arguments)

    def _pass(
        self,
        x_BCHW: Tensor,
        average_N: Tensor,
        momenta_L: Tensor,
        active_L: Tensor,
        classes: BatchClasses | None,
        dropped: frozenset[str] = frozenset(),
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Logits, loss, and the averages after the pass."""
        self._inputs, self._parts = [], {}
        logits_BK = self.model(x_BCHW)
        (inputs, self._inputs), (parts, self._parts) = (self._inputs, []), (self._parts, {})
        skipped = dropped if self.matching.dropped == "skip" else frozenset()
        loss = logits_BK.new_zeros((), dtype=average_N.dtype)
        for number, calls in enumerate(calls_of([(name, x) for name, x in inputs if name not in skipped])):
            present = [*calls] if number else [*calls, *skipped]  # no union of sets, which torch 2.11 does not compile
            if number or len(present) < len(self.layers):  # others keep their averages and add nothing
                there = torch.stack([self._bits[name in present] for name in self.layers])  # nothing comes from the host
                # A layer whose average stands still in the first call does so in all.
                measured = momenta_L.masked_fill(momenta_L < 1, self.matching.momentum) if number else momenta_L
                momenta, active = there * measured + (1 - there), there * active_L
            else:
                momenta, active = momenta_L, active_L
            values_N = self._measuring(calls, lambda name: name not in dropped, parts).to(average_N.dtype)
            average_N = ema_update(average_N, values_N, momenta[self._layer_of_N])
            terms_S = matching_terms(self._target_N, average_N, values_N, self._sizes, self._starts_S1)
            weight_S = self._weight_S * active[self._layer_of_S]
            loss = loss + (1 - self.matching.class_statistics) * (weight_S * terms_S).sum()
            if classes is not None:
                weights_L = self.matching.class_statistics * self._weight_L * active
                by_layer = dict(zip(self.layers, weights_L.unbind(), strict=True))
                variance_weight = self.matching.variance_weight
                loss = loss + sum(by_layer[name] * _class_terms(x, classes, name, variance_weight) for name, x in calls.items())
        return logits_BK, loss, average_N


def _class_terms(x_BCHW: Tensor, classes: BatchClasses, layer: str, variance_weight: float) -> Tensor:
    """The terms of a layer's classes, mean and variance."""
    mean_KC, var_KC = class_moments(x_BCHW, classes.members_KB)
    targets = classes.targets[layer]
    return class_term(targets["class_mean"], mean_KC) + variance_weight * class_term(targets["class_var"], var_KC)
