"""The iterations of a recovery on CUDA, replayed as graphs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from gvbsm.method.densification import TangentLoss, gram_matrices
from gvbsm.method.replays import Replays

if TYPE_CHECKING:
    from gvbsm.method.recovery import Recovery

_FETCH_SECONDS = 1.0  # between two fetches of losses
_MOST = 512  # iterations between them, whose numbers are uploaded together


class Numbers(NamedTuple):
    """What one iteration needs beside the images, on their device."""

    rate: Tensor  # step size, ()
    momenta_L: Tensor  # of the teacher's L layers (`StatisticsMatcher.advance`), padded to the most of any teacher
    active_L: Tensor
    positions_2S: Tensor  # of `SharedViews`


class Turn(NamedTuple):
    """What an iteration is to do, on the host."""

    teacher: int
    dropped: frozenset[str]  # its layers
    rate: float
    momenta: list[float]  # of its layers
    active: list[float]


class Recorder:
    """Runs the iterations of a recovery on CUDA, those of each teacher as a graph from the second one on.

    The numbers of many iterations lie in one table on the device, of which an iteration takes the row that a counter on the
    device names, and the losses in another. Neither needs the host until it fetches them; a densification loss does, before
    each iteration. Graphs are of one round: in the next one, more images take part.
    """

    def __init__(self, recovery: Recovery, shared_T2S: Tensor | None, parts: int) -> None:
        """`shared_T2S`: the positions of views that all images share; `parts`: losses of an iteration."""
        self._recovery, self._size = recovery, 0 if shared_T2S is None else shared_T2S.shape[2]
        self._positions_TN = torch.zeros(recovery.settings.iterations, 0) if shared_T2S is None else shared_T2S.flatten(1).cpu()
        device, matchers = recovery.device, recovery.matchers
        self._layers = max(len(matcher.layers) for matcher in matchers)
        self._widths = [1, self._layers, self._layers, 2 * self._size]
        self._table = torch.zeros(_MOST, sum(self._widths), device=device)
        self._losses = torch.zeros(_MOST, parts, device=device)
        self._at = torch.zeros(1, dtype=torch.int64, device=device)
        self._failed: dict[int, str] = {}  # teacher -> why it is not recorded
        self._pace = 2 * len(matchers)
        self._enter_round()
        if shared_T2S is None:
            self._failed = dict.fromkeys(range(len(matchers)), "every image has a view of its own")

    def _enter_round(self) -> None:
        recovery = self._recovery
        self._round, self._replays = recovery.round, Replays(recovery.device)
        self._steps: dict[int, Callable[[], None]] = {}  # teacher -> its replayed iteration
        self._has_run: set[int] = set()
        self._tangent: TangentLoss | None = None
        if recovery.settings.densification_weight and self._size:
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
        count = min(until - recovery.iteration, self._pace, _MOST)
        first, turns, rows = recovery.iteration, [], []
        for at in range(first, first + count):
            turn = recovery.turn(at)
            padding = [0.0] * (self._layers - len(turn.momenta))
            rows.append([turn.rate, *turn.momenta, *padding, *turn.active, *padding])
            turns.append(turn)
        self._table[:count].copy_(torch.cat([torch.tensor(rows), self._positions_TN[first : first + count]], 1))
        self._at.zero_()
        for number, turn in enumerate(turns):
            recovery.iteration = first + number
            recovery.begin()
            if recovery.round is not self._round:
                self._enter_round()
            if self._tangent is not None:
                self._move(self._tangent, number)
            self._advance(turn.teacher, turn.dropped)
        recovery.iteration = first + count
        losses: list[float] = self._losses[count - 1].tolist()  # waits for the device
        slow = time.monotonic() - started > _FETCH_SECONDS
        self._pace = max(1, self._pace // 2) if slow else self._pace * 2
        return losses

    @torch.no_grad()
    def _move(self, tangent: TangentLoss, number: int) -> None:
        """Move the densification loss to the view of an iteration. Waits for the device."""
        positions_2S = self._table[number, -2 * self._size :].view(2, -1)
        view_BCHW, _ = self._recovery.view_of(positions_2S)
        tangent.move(gram_matrices(view_BCHW, self._round.groups, self._recovery.settings.normalise))

    def _advance(self, teacher: int, dropped: frozenset[str]) -> None:
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
        numbers = Numbers(rate[0], momenta_L, active_L, positions.view(2, -1))
        self._losses.index_copy_(0, self._at, self._recovery.iterate(teacher, numbers, dropped, self._tangent).unsqueeze(0))
        self._at.add_(1)


def because(state: str, reason: str) -> str:
    """A state, and why, if there is a reason."""
    return f"{state} ({reason})" if reason else state
