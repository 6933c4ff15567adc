"""The optimisation of one batch of synthetic images (paper algorithm 1)."""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from gvbsm.method.batch_views import view
from gvbsm.method.densification import TangentLoss, class_groups, gram_matrices, spectrum_loss
from gvbsm.method.matching import BatchClasses, StatisticsMatcher
from gvbsm.method.reasons import because
from gvbsm.method.replays import RecordedIterations
from gvbsm.method.rounds import first_iterations
from gvbsm.method.schedule import Numbers, Schedule

PARTS = ("loss", "ce", "statistics", "densification")  # of the loss, in the order in which they are fetched
_FETCH_SECONDS = 1.0  # between two fetches of losses, each of which waits for the device


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
# their labels (B,) on the CPU, and t.
OwnViews = Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]


class Round(NamedTuple):
    """The images of a batch that take part in some iterations."""

    members_M: Tensor | None  # their positions; None: all
    labels_M: Tensor
    labels_on_cpu_M: Tensor  # for views of their own, which are drawn there
    classes: list[BatchClasses | None]  # by teacher
    groups: list[Tensor]  # of positions, for the densification loss


class Recovery:
    """The optimisation of one batch: images x (B,C,S,S) in normalised space, labels (B,).

    Every iteration passes views of the images to one backbone f and minimises

        L = CE(f(x), y) + r sum_l w_l L_l + d L_DD

    by Adam with a cosine step size that ends at 0, then clamps each channel to `limits`. Random numbers follow from `key` (63
    bits) and the number of the iteration alone, and are the same on every device.

    After each of n `segments` but the last, x <- (1 - residual) x + residual start, and Adam begins anew (FADRM). Image b takes
    part from round `joins[b]` of n `rounds` on (DELT). Before, it is in no view, statistic or loss, and its gradient is 0.

    An iteration takes the row of a table of numbers that a counter on the device names, and writes one of a table of losses. So
    on CUDA that of each teacher is recorded as one CUDA graph after its first one, and replayed without waiting for the device,
    but for the matrices of a densification loss; `modes` says which are, and why others are not.
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
        self.device = x_BCHW.device
        self._start_BCHW = x_BCHW.detach()
        self._segments = first_iterations(settings.iterations, settings.segments)[1:]
        self._round_starts = first_iterations(settings.iterations, settings.rounds)
        self._rounds = self._rounds_of(joins or [0] * len(x_BCHW))
        self._rate = torch.tensor(settings.lr, device=self.device)
        self._adam = torch.optim.Adam(
            [self.x_BCHW],
            lr=self._rate,
            betas=settings.betas,
            fused=self.device.type in ("cpu", "cuda"),
            capturable=self.device.type == "cuda",
        )
        self._schedule = Schedule(
            matchers,
            views.positions_T2S if isinstance(views, SharedViews) else torch.zeros(settings.iterations, 2, 0),
            self.x_BCHW.detach(),
            lr=settings.lr,
            conv_drop=settings.conv_drop,
            is_random=settings.backbone_order == "random",
            key=key,
        )
        self._losses_TP = torch.zeros(settings.iterations, len(PARTS), dtype=x_BCHW.dtype, device=self.device)
        self._at = torch.zeros(1, dtype=torch.int64, device=self.device)  # the iteration, for the device
        self._pace = 1  # iterations between two fetches of losses
        self._recorded: RecordedIterations | None = None
        self._tangent: TangentLoss | None = None
        self._round = self._rounds[0]
        if self.device.type == "cuda":
            self._record()

    def _record(self) -> None:
        """Record iterations from now on, unless every image has a view of its own, and fetch losses about once a second."""
        count, is_shared = len(self.matchers), isinstance(self._views, SharedViews)
        refused = {} if is_shared else dict.fromkeys(range(count), "every image has a view of its own")
        self._recorded, self._pace = RecordedIterations(self.device, refused), 2 * count
        self._enter(self._round)

    def run(self, until: int) -> dict[str, float]:
        """The next iteration, or on CUDA as many as take about a second, but none from number `until` on; the loss and its
        parts in the last one."""
        started, first = time.monotonic(), self.iteration
        last = min(until, first + self._pace)
        self._schedule.begin(first)
        self._at.fill_(first)
        for at in range(first, last):
            self.iteration = at
            self._begin()
            self._make()
        self._schedule.advance(first, last)
        self.iteration = last
        losses: list[float] = self._losses_TP[last - 1].tolist()  # waits for the device
        if self._recorded:
            slow = time.monotonic() - started > _FETCH_SECONDS
            self._pace = max(1, self._pace // 2) if slow else self._pace * 2
        parts = dict(zip(PARTS, losses, strict=True))
        return parts if self.settings.densification_weight else {name: parts[name] for name in PARTS[:-1]}

    @property
    def modes(self) -> list[str]:
        """How the iterations of each teacher run on this device: "compiled" or not, "recorded" or not, and why not."""
        modes = []
        for teacher, matcher in enumerate(self.matchers):
            compiled = "compiled" if matcher.compiled else because("not compiled", matcher.not_compiled)
            modes.append(", ".join([compiled, *([self._recorded.state(teacher)] if self._recorded else [])]))
        return modes

    def close(self) -> None:
        """Free the recordings and their memory, which another batch needs."""
        self._recorded = self._tangent = None

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
            matcher.started = [bool(has_started) for has_started in started]

    def _rounds_of(self, joins: list[int]) -> list[Round]:
        """Who takes part in each round; one object for rounds of the same images."""
        rounds: dict[int, Round] = {}
        counts = [sum(joined <= number for joined in joins) for number in range(self.settings.rounds)]
        for number, count in enumerate(counts):
            if count in rounds:
                continue
            members_M = None
            if count < len(joins):
                members_M = torch.tensor([at for at, joined in enumerate(joins) if joined <= number], device=self.device)
            labels_M = self.labels_B if members_M is None else self.labels_B[members_M]
            classes = [matcher.classes_of(labels_M) for matcher in self.matchers]
            groups = class_groups(labels_M) if self.settings.densification_weight else []
            rounds[count] = Round(members_M, labels_M, labels_M.cpu(), classes, groups)
        return [rounds[count] for count in counts]

    def _begin(self) -> None:
        """What comes before the next iteration, if it is the first of a round or a segment."""
        following = self._rounds[bisect.bisect_right(self._round_starts, self.iteration) - 1]
        if following is not self._round:
            self._enter(following)
        if self.iteration in self._segments:
            share = self.settings.residual
            with torch.no_grad():
                self.x_BCHW.mul_(1 - share).add_(self._start_BCHW, alpha=share)
            for value in self._adam.state[self.x_BCHW].values():  # in place: recordings know these tensors
                value.zero_()

    def _enter(self, following: Round) -> None:
        """From now on the images of this round take part: recordings are of those of one round."""
        self._round = following
        if self._recorded:
            self._recorded.clear()
            if self.settings.densification_weight and isinstance(self._views, SharedViews):
                self._tangent = TangentLoss(following.groups, self.settings.tau, self.settings.normalise, self.device)

    def _make(self) -> None:
        """The next iteration, recorded or not."""
        teacher = self._schedule.teacher(self.iteration)
        if self._tangent is not None:
            self._move(self._tangent)

        def unrecorded() -> None:
            self._iterate(teacher, self._schedule.dropped(self.iteration))

        if self._recorded:
            self._recorded.run(teacher, lambda: self._iterate(teacher), unrecorded)
        else:
            unrecorded()

    @torch.no_grad()
    def _move(self, tangent: TangentLoss) -> None:
        """Move the densification loss to the view of the next iteration. Waits for the device."""
        view_BCHW, _ = self._view_of(self._schedule.numbers(self._at).positions_2S)
        tangent.move(gram_matrices(view_BCHW, self._round.groups, self.settings.normalise))

    def _iterate(self, teacher: int, dropped: frozenset[str] = frozenset()) -> None:
        """One iteration, that which the counter on the device names."""
        numbers = self._schedule.numbers(self._at)
        parts = self._loss(teacher, numbers, dropped)
        (gradient_BCHW,) = torch.autograd.grad(parts[0], self.x_BCHW)
        self.x_BCHW.grad = gradient_BCHW.contiguous(memory_format=torch.channels_last)  # as x, for the fused step
        self._rate.copy_(numbers.rate)
        self._adam.step()
        with torch.no_grad():
            self.x_BCHW.clamp_(*self._limits)
        losses_1P = torch.stack([part.detach() for part in parts]).to(self._losses_TP.dtype).unsqueeze(0)
        self._losses_TP.index_copy_(0, self._at, losses_1P)
        self._at.add_(1)

    def _view_of(self, positions_2S: Tensor) -> tuple[Tensor, Tensor]:
        """What an iteration passes to its teacher, and the labels."""
        x_MCHW = self.x_BCHW if self._round.members_M is None else self.x_BCHW.index_select(0, self._round.members_M)
        if isinstance(self._views, SharedViews):
            return view(x_MCHW, positions_2S, self._views.padding_1C11), self._round.labels_M
        return self._views(x_MCHW, self._round.labels_on_cpu_M, self.iteration)

    def _loss(self, teacher: int, numbers: Numbers, dropped: frozenset[str]) -> list[Tensor]:
        """`PARTS` of an iteration's loss."""
        settings, matcher = self.settings, self.matchers[teacher]
        momenta_L, active_L = (values_L[: len(matcher.layers)] for values_L in (numbers.momenta_L, numbers.active_L))
        view_BCHW, view_labels = self._view_of(numbers.positions_2S)
        x_BCHW = view_BCHW.contiguous(memory_format=torch.channels_last)
        logits_BK, statistics = matcher.pass_through(x_BCHW, momenta_L, active_L, self._round.classes[teacher], dropped)
        if view_labels.dim() == 2:  # probabilities of the row's classes, which a teacher's other outputs follow
            view_labels = F.pad(view_labels, (0, logits_BK.shape[1] - view_labels.shape[1]))
        ce = F.cross_entropy(logits_BK.float(), view_labels)
        loss = ce + settings.statistics_weight * statistics
        densification = torch.zeros_like(ce)
        if settings.densification_weight:
            grams = gram_matrices(view_BCHW, self._round.groups, settings.normalise)
            densification = self._tangent(grams) if self._tangent else spectrum_loss(grams, settings.tau, settings.normalise)
            loss = loss + settings.densification_weight * densification
        return [loss, ce, statistics, densification]
