"""The iterations of a recovery on CUDA, replayed as graphs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gvbsm.method.densification import TangentLoss, gram_matrices
from gvbsm.method.replays import Replays, because

if TYPE_CHECKING:
    from gvbsm.method.recovery import Recovery

_FETCH_SECONDS = 1.0  # between two fetches of losses


class Numbers(NamedTuple):
    """What one iteration needs beside the images, on their device."""

    rate: Tensor  # step size, ()
    momenta_L: Tensor  # of the teacher's L layers (`StatisticsMatcher.schedule`), padded to the most of any teacher
    active_L: Tensor
    positions_2S: Tensor  # of `SharedViews`


class Recorder:
    """Runs the iterations of a recovery on CUDA, those of each teacher as a graph from the second one on.

    An iteration takes the row of the recovery's table that a counter on the device names, and writes one of a table of losses.
    Neither needs the host until it fetches a loss; a densification loss does, before each iteration. Graphs are of one round:
    in the next one, more images take part.
    """

    def __init__(self, recovery: Recovery, are_shared: bool, parts: int) -> None:
        """`are_shared`: all images have the same view; `parts`: losses of an iteration."""
        self._recovery, self._are_shared = recovery, are_shared
        teachers = len(recovery.matchers)
        self._losses_TP = torch.zeros(recovery.settings.iterations, parts, device=recovery.device)
        self._at = torch.zeros(1, dtype=torch.int64, device=recovery.device)
        self._pace = 2 * teachers
        self._failed: dict[int, str] = {}  # teacher -> why it is not recorded
        if not are_shared:
            self._failed = dict.fromkeys(range(teachers), "every image has a view of its own")
        self._enter_round()

    def _enter_round(self) -> None:
        recovery = self._recovery
        self._round, self._replays = recovery.round, Replays(recovery.device)
        self._steps: dict[int, Callable[[], None]] = {}  # teacher -> its replayed iteration
        self._has_run: set[int] = set()
        self._tangent: TangentLoss | None = None
        if recovery.settings.densification_weight and self._are_shared:
            settings = recovery.settings
            self._tangent = TangentLoss(self._round.groups, settings.tau, settings.normalise, recovery.device)

    def states(self) -> list[str]:
        return [
            "recorded" if teacher in self._steps else because("not recorded", self._failed.get(teacher, "few iterations"))
            for teacher in range(len(self._recovery.matchers))
        ]

    def run(self, until: int) -> list[float]:
        """See `Recovery.run`."""
        recovery, started = self._recovery, time.monotonic()
        first = recovery.iteration
        last = min(until, first + self._pace)
        self._at.fill_(first)
        for at in range(first, last):
            recovery.iteration = at
            recovery.begin()
            if recovery.round is not self._round:
                self._enter_round()
            if self._tangent is not None:
                self._move(self._tangent, at)
            self._advance(at)
        recovery.advance(first, last)
        losses: list[float] = self._losses_TP[last - 1].tolist()  # waits for the device
        slow = time.monotonic() - started > _FETCH_SECONDS
        self._pace = max(1, self._pace // 2) if slow else self._pace * 2
        return losses

    @torch.no_grad()
    def _move(self, tangent: TangentLoss, at: int) -> None:
        """Move the densification loss to the view of an iteration. Waits for the device."""
        view_BCHW, _ = self._recovery.view_of(self._recovery.numbers(self._recovery.table_TW[at]).positions_2S)
        tangent.move(gram_matrices(view_BCHW, self._round.groups, self._recovery.settings.normalise))

    def _advance(self, at: int) -> None:
        teacher = self._recovery.teacher(at)
        if teacher in self._has_run and teacher not in self._failed and teacher not in self._steps:
            try:
                self._steps[teacher] = self._replays.record(lambda: self._iterate(teacher))
            except RuntimeError as error:
                self._failed[teacher] = (str(error).strip() or type(error).__name__).splitlines()[0]
                warnings.warn(f"recover runs without CUDA graphs: {self._failed[teacher]}", stacklevel=2)
        if teacher in self._steps:
            self._steps[teacher]()
        elif teacher in self._failed:
            self._iterate(teacher, self._recovery.dropped(at))
        else:
            self._replays.run(lambda: self._iterate(teacher))
        self._has_run.add(teacher)

    def _iterate(self, teacher: int, dropped: frozenset[str] = frozenset()) -> None:
        """One iteration by the row of the table that the counter names."""
        recovery = self._recovery
        numbers = recovery.numbers(recovery.table_TW.index_select(0, self._at)[0])
        losses_P = recovery.iterate(teacher, numbers, dropped, self._tangent)
        self._losses_TP.index_copy_(0, self._at, losses_P.unsqueeze(0))
        self._at.add_(1)
