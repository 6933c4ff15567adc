"""The optimisation of one batch of synthetic images (paper algorithm 1)."""

from __future__ import annotations

import bisect
import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gvbsm.method.batch_views import view
from gvbsm.method.densification import densification_loss
from gvbsm.method.draws import derive, uniform
from gvbsm.method.matching import BatchClasses, StatisticsMatcher
from gvbsm.method.replays import Replays
from gvbsm.method.rounds import first_iterations

PARTS = ("loss", "ce", "statistics", "densification")  # of the loss, in the order in which they are fetched
_ORDER, _DROP = range(2)  # the purposes of random numbers; each has its own key
_FETCH_SECONDS = 1.0  # between two fetches of losses from a GPU
_MOST = 512  # iterations between them, whose numbers are uploaded together


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
    segments: int = 1  # between them, `residual` of the images is their start again, and Adam restarts
    residual: float = 0.0
    rounds: int = 1  # in which images join


@dataclass(frozen=True)
class SharedViews:
    """In each iteration the same crop, flip and roll for all images: `view` of `batch_views`."""

    positions_T2S: Tensor  # of every iteration
    padding_1C11: Tensor


# In iteration t, a view (B,C,S,S) of each image of its own, and their labels (B,) or class probabilities (B,K). Given: images,
# their labels (B,), and t.
OwnViews = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


class _Numbers(NamedTuple):
    """What one iteration needs beside the images, on their device."""

    rate: Tensor  # step size, ()
    momenta_L: Tensor  # of the teacher's L layers (`StatisticsMatcher.advance`), padded to the most of any teacher
    active_L: Tensor
    positions_2S: Tensor  # of `SharedViews`


class _Round(NamedTuple):
    """The images of a batch that take part in some iterations."""

    members_M: Tensor | None  # their positions; None: all
    labels_M: Tensor
    classes: list[BatchClasses | None]  # by teacher


class Recovery:
    """The optimisation of one batch: images x (B,C,S,S) in normalised space, labels (B,).

    Every iteration passes views of the images to one backbone f and minimises

        L = CE(f(x), y) + r sum_l w_l L_l + d L_DD

    by Adam with a cosine step size that ends at 0, then clamps each channel to `limits`. Random numbers follow from `key` (63
    bits) and the number of the iteration alone, and are the same on every device.

    After each of n `segments` but the last, x <- (1 - residual) x + residual start, and Adam begins anew (FADRM). Image b takes
    part from round `joins[b]` of n `rounds` on (DELT). Before, it is in no view, statistic or loss, and its gradient is 0.

    On CUDA an iteration is recorded as one CUDA graph for each teacher after its first one, and replayed without waiting for
    the device; `passes` says which are, and why others are not.
    """

    def __init__(
        self,
        x_BCHW: Tensor,
        labels_B: Tensor,
        matchers: list[StatisticsMatcher],
        settings: RecoverySettings,
        *,
        views: SharedViews | OwnViews,
        limits: tuple[Tensor, Tensor],
        key: int,
        joins: list[int] | None = None,
    ) -> None:
        self.x_BCHW = x_BCHW.detach().clone(memory_format=torch.channels_last).requires_grad_()
        self.labels_B = labels_B
        self.matchers = matchers
        self.settings = settings
        self.iteration = 0
        self._views, self._limits = views, limits
        self._device = x_BCHW.device
        self._start_BCHW = x_BCHW.detach()
        self._segments = first_iterations(settings.iterations, settings.segments)[1:]
        self._round_starts = first_iterations(settings.iterations, settings.rounds)
        self._rounds = self._rounds_of(joins or [0] * len(x_BCHW))
        self._round = self._rounds[0]
        self._rate = torch.tensor(settings.lr, device=self._device)
        self._adam = torch.optim.Adam(
            [self.x_BCHW],
            lr=self._rate,
            betas=settings.betas,
            fused=self._device.type in ("cpu", "cuda"),
            capturable=self._device.type == "cuda",
        )
        count, teachers = settings.iterations, len(matchers)
        self._teacher_T = torch.arange(count) % teachers
        if settings.backbone_order == "random":
            self._teacher_T = (uniform(derive(key, _ORDER), count) * teachers).long()
        convs = max(len(matcher.conv_layers) for matcher in matchers)
        self._dropped_TL = uniform(derive(key, _DROP), count * convs).view(count, convs) < settings.conv_drop
        self._recorder = _Recorder(self) if self._device.type == "cuda" else None

    def run(self, until: int) -> dict[str, float]:
        """The next iteration, or on CUDA as many as take about a second, but none from number `until` on; the loss and its
        parts in the last one."""
        if self._recorder:
            losses = self._recorder.run(until)
        else:
            self._begin()
            teacher, dropped, numbers = self._numbers()
            losses = self._iterate(teacher, _Numbers(*numbers), dropped).tolist()
            self.iteration += 1
        parts = dict(zip(PARTS, losses, strict=True))
        return parts if self.settings.densification_weight else {name: parts[name] for name in PARTS[:-1]}

    @property
    def passes(self) -> list[str]:
        """How the iterations of each teacher run on this device: "compiled" or not, "recorded" or not, and why not."""
        recorded = self._recorder.states() if self._recorder else [""] * len(self.matchers)
        compiled = [
            "compiled" if matcher.compiled else _because("not compiled", matcher.not_compiled) for matcher in self.matchers
        ]
        return [", ".join(filter(None, states)) for states in zip(compiled, recorded, strict=True)]

    def close(self) -> None:
        """Free the recordings and their memory, which another batch needs."""
        self._recorder = None

    def state(self) -> dict[str, Any]:
        """The state that the next iteration depends on."""
        return {
            "x": self.x_BCHW,
            "iteration": self.iteration,
            "adam": dict(self._adam.state[self.x_BCHW]),
            "averages": [matcher.average_N for matcher in self.matchers],
            "started": [[int(started) for started in matcher.started] for matcher in self.matchers],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the `state()` of another process, its tensors on the device of x."""
        with torch.no_grad():
            self.x_BCHW.copy_(state["x"])
        self.iteration = state["iteration"]
        # In the memory layout of x, which the fused step needs.
        like_x = {name: torch.empty_like(self.x_BCHW) for name, value in state["adam"].items() if value.dim()}
        self._adam.state[self.x_BCHW] = {
            name: like_x[name].copy_(value) if name in like_x else value for name, value in state["adam"].items()
        }
        for matcher, average_N, started in zip(self.matchers, state["averages"], state["started"], strict=True):
            matcher.average_N.copy_(average_N)
            matcher.started = [bool(one) for one in started]

    def _rounds_of(self, joins: list[int]) -> list[_Round]:
        """Who takes part in each round; one object for rounds of the same images."""
        rounds: dict[int, _Round] = {}
        counts = [sum(joined <= number for joined in joins) for number in range(self.settings.rounds)]
        for number, count in enumerate(counts):
            if count in rounds:
                continue
            members_M = None
            if count < len(joins):
                members_M = torch.tensor([at for at, joined in enumerate(joins) if joined <= number], device=self._device)
            labels_M = self.labels_B if members_M is None else self.labels_B[members_M]
            rounds[count] = _Round(members_M, labels_M, [matcher.classes_of(labels_M) for matcher in self.matchers])
        return [rounds[count] for count in counts]

    def _begin(self) -> None:
        """What comes before the next iteration, if it is the first of a round or a segment."""
        at = self.iteration
        self._round = self._rounds[bisect.bisect_right(self._round_starts, at) - 1]
        if at in self._segments:
            share = self.settings.residual
            with torch.no_grad():
                self.x_BCHW.mul_(1 - share).add_(self._start_BCHW, alpha=share)
            for value in self._adam.state[self.x_BCHW].values():  # in place: recordings know these tensors
                value.zero_()

    def _numbers(self) -> tuple[int, frozenset[str], _Numbers]:
        """The teacher of this iteration, its dropped layers, and numbers; the matcher's layers have then advanced."""
        at = self.iteration
        teacher = int(self._teacher_T[at])
        matcher = self.matchers[teacher]
        drawn = zip(matcher.conv_layers, self._dropped_TL[at].tolist(), strict=False)
        dropped = frozenset(name for name, is_dropped in drawn if is_dropped)
        rate = self.settings.lr / 2 * (1 + math.cos(math.pi * at / self.settings.iterations))
        momenta, active = (torch.tensor(values, dtype=self.x_BCHW.dtype) for values in matcher.advance(dropped))
        positions = self._views.positions_T2S[at] if isinstance(self._views, SharedViews) else torch.empty(2, 0)
        if self._device.type != "cuda":
            momenta, active, positions = (numbers.to(self._device) for numbers in (momenta, active, positions))
        return teacher, dropped, _Numbers(torch.tensor(rate), momenta, active, positions)

    def _iterate(self, teacher: int, numbers: _Numbers, dropped: frozenset[str] = frozenset()) -> Tensor:
        """One iteration: `PARTS` of its loss, on the device."""
        matcher = self.matchers[teacher]
        layers = len(matcher.layers)
        momenta_L, active_L = numbers.momenta_L[:layers], numbers.active_L[:layers]
        parts = self._loss(matcher, numbers.positions_2S, momenta_L, active_L, self._round.classes[teacher], dropped)
        (gradient_BCHW,) = torch.autograd.grad(parts[0], self.x_BCHW)
        self.x_BCHW.grad = gradient_BCHW.contiguous(memory_format=torch.channels_last)  # as x, for the fused step
        self._rate.copy_(numbers.rate)
        self._adam.step()
        with torch.no_grad():
            self.x_BCHW.clamp_(*self._limits)
        return torch.stack([part.detach() for part in parts])

    def _loss(
        self,
        matcher: StatisticsMatcher,
        positions_2S: Tensor,
        momenta_L: Tensor,
        active_L: Tensor,
        classes: BatchClasses | None,
        dropped: frozenset[str],
    ) -> list[Tensor]:
        settings, (members_M, labels_M, _) = self.settings, self._round
        x_MCHW = self.x_BCHW if members_M is None else self.x_BCHW.index_select(0, members_M)
        if isinstance(self._views, SharedViews):
            view_BCHW, view_labels = view(x_MCHW, positions_2S, self._views.padding_1C11), labels_M
        else:
            view_BCHW, view_labels = self._views(x_MCHW, labels_M, self.iteration)
        x_BCHW = view_BCHW.contiguous(memory_format=torch.channels_last)
        logits_BK, statistics = matcher.passes(x_BCHW, momenta_L, active_L, classes, dropped)
        ce = F.cross_entropy(logits_BK.float(), view_labels)
        loss = ce + settings.statistics_weight * statistics
        densification = torch.zeros_like(ce)
        if settings.densification_weight:
            densification = densification_loss(view_BCHW, labels_M, settings.tau, settings.normalise)
            loss = loss + settings.densification_weight * densification
        return [loss, ce, statistics, densification]


class _Recorder:
    """Runs the iterations of a recovery on CUDA, those of each teacher as a graph from the second one on.

    The numbers of many iterations lie in one table on the device, of which an iteration takes the row that a counter on the
    device names, and the losses in another. Neither needs the host until it fetches them. Graphs are of one round: in the next
    one, more images take part.
    """

    def __init__(self, recovery: Recovery) -> None:
        self._recovery = recovery
        device, matchers = recovery._device, recovery.matchers
        shared = recovery._views.positions_T2S.shape[2] if isinstance(recovery._views, SharedViews) else 0
        self._layers, size = max(len(matcher.layers) for matcher in matchers), shared
        self._widths = [1, self._layers, self._layers, 2 * size]
        self._table = torch.zeros(_MOST, sum(self._widths), device=device)
        self._losses = torch.zeros(_MOST, len(PARTS), device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._replays = Replays(device)
        self._steps: dict[int, Callable[[], None]] = {}  # teacher -> its replayed iteration
        self._failed: dict[int, str] = {}  # teacher -> why it is not recorded
        self._has_run: set[int] = set()
        self._round = recovery._round
        self._pace = 2 * len(matchers)
        reason = None if shared else "every image has a view of its own"
        if recovery.settings.densification_weight:
            reason = "the densification loss waits for the device"
        if reason:
            self._failed = dict.fromkeys(range(len(matchers)), reason)

    def states(self) -> list[str]:
        return [
            "recorded" if teacher in self._steps else _because("not recorded", self._failed.get(teacher, "few iterations"))
            for teacher in range(len(self._recovery.matchers))
        ]

    def run(self, until: int) -> list[float]:
        """See `Recovery.run`."""
        recovery, started = self._recovery, time.monotonic()
        count = min(until - recovery.iteration, self._pace, _MOST)
        todo, rows = [], []
        first = recovery.iteration
        for _ in range(count):
            teacher, dropped, numbers = recovery._numbers()
            padded = [F.pad(numbers[i], (0, self._layers - len(numbers[i]))) for i in (1, 2)]
            rows.append(torch.cat([numbers.rate.view(1), *padded, numbers.positions_2S.flatten()]))
            todo.append((teacher, dropped))
            recovery.iteration += 1
        self._table[:count].copy_(torch.stack(rows))
        self._at.zero_()
        for number, (teacher, dropped) in enumerate(todo):
            recovery.iteration = first + number
            self._advance(teacher, dropped)
        recovery.iteration = first + count
        losses: list[float] = self._losses[count - 1].tolist()  # waits for the device
        slow = time.monotonic() - started > _FETCH_SECONDS
        self._pace = max(1, self._pace // 2) if slow else self._pace * 2
        return losses

    def _advance(self, teacher: int, dropped: frozenset[str]) -> None:
        self._recovery._begin()
        if self._recovery._round is not self._round:
            self._round, self._replays = self._recovery._round, Replays(self._recovery._device)
            self._steps, self._has_run = {}, set()
        if teacher in self._has_run and teacher not in self._failed and teacher not in self._steps:
            try:
                self._steps[teacher] = self._replays.record(lambda: self._iterate(teacher))
            except RuntimeError as error:
                self._failed[teacher] = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"recover runs without CUDA graphs: {self._failed[teacher]}", stacklevel=2)
        if teacher in self._steps:
            self._steps[teacher]()
        elif teacher in self._failed:
            self._iterate(teacher, dropped)
        else:
            self._replays.run(lambda: self._iterate(teacher))
        self._has_run.add(teacher)

    def _iterate(self, teacher: int, dropped: frozenset[str] = frozenset()) -> None:
        """One iteration by the row of the table that the counter names."""
        row = self._table.index_select(0, self._at)[0]
        rate, momenta_L, active_L, positions = row.split(self._widths)
        numbers = _Numbers(rate[0], momenta_L, active_L, positions.view(2, -1))
        self._losses.index_copy_(0, self._at, self._recovery._iterate(teacher, numbers, dropped).unsqueeze(0))
        self._at.add_(1)


def _because(state: str, reason: str) -> str:
    return f"{state} ({reason})" if reason else state
