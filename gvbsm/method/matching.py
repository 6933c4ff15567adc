"""The matching loss sum_l w_l L_l of one teacher over its hooked layers (METHOD.md section 3; paper section 3.3)."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from types import TracebackType

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
    kept: frozenset[tuple[str, str]] | None = None  # (layer, "channel" or "patch") that are matched; None: all


NO_MATCHING = Matching(patch_size=1, momentum=0.0, first_layer_weight=1.0, start="first", dropped="skip", layers=())


def ema_update(average: Tensor, value: Tensor, momentum: float | Tensor) -> Tensor:
    """m <- alpha m + (1 - alpha) s, without gradient."""
    return momentum * average + (1 - momentum) * value.detach()


def matching_term(target: Tensor, average: Tensor, value: Tensor) -> Tensor:
    """|| S - (m + s - stopgrad(s)) ||_2: the EMA's distance, with the gradient of the batch statistic. 0 at 0."""
    return torch.linalg.vector_norm(target - (average + value - value.detach()))


def class_term(target_KC: Tensor, value_KC: Tensor) -> Tensor:
    """sqrt(mean over classes of || S_k - s_k ||^2): the distance of a class's moments, of which no average is kept."""
    return torch.linalg.vector_norm(target_KC - value_KC) / len(target_KC) ** 0.5


class StatisticsMatcher:
    """A teacher whose forward pass also gives the matching loss of its layers' inputs.

    Targets of a BatchNorm layer are its own running moments; of a Conv layer `targets[layer]`, the moments of section 2. With
    `class_statistics` c, L_l is 1 - c times these terms and c times those of the classes' own channel moments (EDC, Shao et
    al., NeurIPS 2024), whose targets are in `targets[layer]` of BatchNorm layers too.
    Use as a context manager, which removes the hooks:

        with StatisticsMatcher(teacher, targets, matching) as matcher:
            logits, loss = matcher(x_BCHW, dropped={"conv3"})

    The pass runs in `autocast()`; moments and loss stay float32. With `compiled`, pass and statistics are one graph of
    torch.compile, which costs a minute or more for the first batch of each shape and then about as much as the teacher's own
    uncompiled pass; without, half as much again or more. If a graph cannot be made, for want of a compiler say, `compiled`
    becomes False, a warning tells why, and all goes on without.

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
        self.averages: dict[str, Moments] = {}  # of the layers seen so far
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
        """Logits (B,K) and the weighted statistics loss, a scalar, of this batch; the EMAs advance by one step. Labels are
        needed where a share is matched class by class."""
        alpha = self.matching.momentum
        before = {name: self.averages.get(name) or self._zeros(name) for name in self.layers}
        # A first value becomes the average as it is.
        first = {name for name in self.layers if self.matching.start == "first" and name not in self.averages}
        momenta = {name: 0.0 if name in first else alpha for name in self.layers}
        kept = {name: name not in dropped for name in self.layers}
        with self._autocast():
            of_classes = self._of_classes(labels_B, x_BCHW) if self.matching.class_statistics else {}
            passed = self._run_graph(x_BCHW, before, momenta, kept, of_classes) if self._graph is not None else None
            logits_BK, loss, averages = passed or self._pass(x_BCHW, before, momenta, kept, of_classes)
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
            return (
                {"channel_var": module.running_var, "channel_mean": module.running_mean} if self._keeps(name, "channel") else {}
            )
        kinds = [kind for kind in self.matching.conv_statistics if self._keeps(name, kind)]
        wanted = [f"{kind}_{moment}" for kind in kinds for moment in ("var", "mean")]
        missing = [kind for kind in wanted if kind not in targets.get(name, {})]
        if missing:
            raise ValueError(f"statistics of layer {name!r}: expected {', '.join(wanted)}, got none of {missing}; remake them")
        parameter = next(module.parameters())
        return {kind: targets[name][kind].to(parameter.device, parameter.dtype) for kind in wanted}

    def _keeps(self, layer: str, kind: str) -> bool:
        return self.matching.kept is None or (layer, kind) in self.matching.kept

    def _class_target(self, name: str, targets: dict[str, Moments]) -> Moments:
        """The moments of every class of a layer's input, each (K,C), if they are matched."""
        kinds = ("class_var", "class_mean") if self.matching.class_statistics else ()
        missing = [kind for kind in kinds if kind not in targets.get(name, {})]
        if missing:
            raise ValueError(f"statistics of layer {name!r}: expected {', '.join(kinds)}, got none of {missing}; remake them")
        parameter = next(self.model.parameters())
        return {kind: targets[name][kind].to(parameter.device, parameter.dtype) for kind in kinds}

    def _of_classes(self, labels_B: Tensor | None, x_BCHW: Tensor) -> dict[str, Moments]:
        """Targets of the classes in a batch by layer, and under "" which of its images is of which of them."""
        if labels_B is None:
            raise ValueError("labels: expected those of the batch, since statistics are matched class by class, got none")
        classes = labels_B.unique()
        members_KB = (classes.unsqueeze(1) == labels_B).to(x_BCHW.dtype)
        found = {name: {kind: one[classes] for kind, one in self._class_targets[name].items()} for name in self.layers}
        return found | {"": {"members": members_KB}}

    def _zeros(self, name: str) -> Moments:
        return {kind: torch.zeros_like(target) for kind, target in self._targets[name].items()}

    def _run_graph(
        self,
        x_BCHW: Tensor,
        before: Averages,
        momenta: dict[str, float],
        kept: dict[str, bool],
        of_classes: dict[str, Moments],
    ) -> Passed | None:
        """The pass as a compiled graph, in which drops and momenta are data; None if it cannot be compiled."""
        assert self._graph is not None

        def data(numbers: Mapping[str, float]) -> dict[str, Tensor]:
            values = torch.tensor(list(numbers.values()), dtype=x_BCHW.dtype, device=x_BCHW.device)
            return dict(zip(numbers, values.unbind(), strict=True))

        arguments = (before, data(momenta), data(kept), of_classes)
        shapes = (x_BCHW.shape, *(one.shape for one in of_classes.get("", {}).values()))
        if shapes not in self._compiled_shapes:
            try:  # forward and backward once, where a failure can still be mended
                probe = x_BCHW.detach().clone().requires_grad_()
                logits_BK, loss, _ = self._graph(probe, *arguments)
                (logits_BK.sum() + loss).backward()
            except (ValueError, torch.OutOfMemoryError):
                raise
            except Exception as error:  # whatever the compiler or the lack of one makes torch raise
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
        kept: Mapping[str, bool | Tensor],
        of_classes: dict[str, Moments],
    ) -> Passed:
        """Logits, loss, and the averages of the layers whose inputs were measured."""
        self._inputs = []
        logits_BK = self.model(x_BCHW)
        inputs, self._inputs = self._inputs, []
        if self.matching.dropped == "skip":
            inputs = [(name, x) for name, x in inputs if kept[name] is not False]
        after: Averages = {}
        terms = []
        for (name, x), found in zip(inputs, self._moments(inputs, kept), strict=True):
            averages = after.get(name, before[name])
            momentum = self.matching.momentum if name in after else momenta[name]
            after[name], term = {}, logits_BK.new_zeros(())
            for kind, target in self._targets[name].items():
                value = found[kind]
                if value.shape != target.shape:
                    raise ValueError(
                        f"{kind} of layer {name!r}: expected {tuple(target.shape)} as in the statistics, got "
                        f"{tuple(value.shape)}; make the statistics at this image and patch size"
                    )
                after[name][kind] = ema_update(averages[kind], value, momentum)
                term = term + matching_term(target, after[name][kind], value)
            if of_classes:
                mean_KC, var_KC = class_moments(x, of_classes[""]["members"])
                wanted = of_classes[name]
                by_class = class_term(wanted["class_mean"], mean_KC) + class_term(wanted["class_var"], var_KC)
                term = (1 - self.matching.class_statistics) * term + self.matching.class_statistics * by_class
            weight = self.matching.first_layer_weight if name == self._first else 1.0
            terms.append(weight * term * kept[name])
        return logits_BK, torch.stack(terms).sum() if terms else logits_BK.new_zeros(()), after

    def _moments(self, inputs: list[tuple[str, Tensor]], kept: Mapping[str, bool | Tensor]) -> list[Moments]:
        """Moments of every input; a tensor that several layers read is measured once (the compiler sees that by itself)."""
        found: list[Moments] = []
        measured: dict[int, Moments] = {}
        for name, x_BCHW in inputs:
            kinds = tuple(dict.fromkeys(kind.partition("_")[0] for kind in self._targets[name]))
            if torch.compiler.is_compiling():
                found.append(moments(x_BCHW, kinds, self.matching.patch_size))
                continue
            known = measured.setdefault(id(x_BCHW), {})
            missing = tuple(kind for kind in kinds if f"{kind}_mean" not in known)
            if missing:
                with torch.set_grad_enabled(torch.is_grad_enabled() and any(kept[n] for n, x in inputs if x is x_BCHW)):
                    known |= moments(x_BCHW, missing, self.matching.patch_size)
            found.append(known)
        return found
