"""What the iterations of a recovery need beside the images, drawn and computed before the first one."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from gvbsm.method.draws import derive, uniform
from gvbsm.method.matching import StatisticsMatcher

_ORDER, _DROP = range(2)  # the purposes of random numbers; each has its own key


class Numbers(NamedTuple):
    """What one iteration needs beside the images, on their device."""

    rate: Tensor  # step size, ()
    momenta_L: Tensor  # of the teacher's L layers (`StatisticsMatcher.schedule`), padded to the most of any teacher
    active_L: Tensor
    positions_2S: Tensor  # of the views that all images share


class Schedule:
    """The teacher of each of T iterations, the layers that it drops, and its `Numbers`, in a table on the device of the images.

    Step sizes follow a cosine from `lr` to 0. Random numbers follow from `key` alone: teachers, if `is_random` (otherwise they
    take turns), and drops of Conv layers, each with probability `conv_drop`.
    """

    def __init__(
        self,
        matchers: list[StatisticsMatcher],
        positions_T2S: Tensor,
        like: Tensor,
        *,
        lr: float,
        conv_drop: float,
        is_random: bool,
        key: int,
    ) -> None:
        """`like` has the table's type and device."""
        self._matchers, self._positions_T2S, self._lr = matchers, positions_T2S, lr
        count, teachers = len(positions_T2S), len(matchers)
        self._teacher_T = torch.arange(count) % teachers
        if is_random:
            self._teacher_T = (uniform(derive(key, _ORDER), count) * teachers).long()
        convs = max(len(matcher.conv_layers) for matcher in matchers)
        drops_TC = uniform(derive(key, _DROP), count * convs).view(count, convs) < conv_drop
        self._drops = [_of_layers(matcher, drops_TC) for matcher in matchers]
        layers = max(len(matcher.layers) for matcher in matchers)
        self._widths = [1, layers, layers, 2 * positions_T2S.shape[2]]
        self._table_TW = like.new_zeros(count, sum(self._widths))
        self._ready_at = -1  # the iteration from which on the table holds numbers

    def teacher(self, at: int) -> int:
        """The number of the teacher of an iteration."""
        return int(self._teacher_T[at])

    def dropped(self, at: int) -> frozenset[str]:
        """Those layers of its teacher that an iteration drops."""
        teacher = self.teacher(at)
        drops = zip(self._matchers[teacher].layers, self._drops[teacher][at].tolist(), strict=True)
        return frozenset(name for name, is_dropped in drops if is_dropped)

    def numbers(self, at_1: Tensor) -> Numbers:
        """Those of an iteration, whose number is on the device."""
        rate_1, momenta_L, active_L, positions_P = self._table_TW.index_select(0, at_1)[0].split(self._widths)
        return Numbers(rate_1[0], momenta_L, active_L, positions_P.view(2, -1))

    def begin(self, at: int) -> None:
        """Iterations from this one on come next: the first of all, or of those after a resume, if no `advance` led to it."""
        if at != self._ready_at:
            self._table_TW[at:].copy_(self._rows(at))
        self._ready_at = at

    def advance(self, first: int, last: int) -> None:
        """Iterations `first` to `last` - 1 are made: matchers know it, and `last` is the next one."""
        for teacher in self._teacher_T[first:last].unique().tolist():
            own_N = self._teacher_T[first:last] == teacher
            self._matchers[teacher].count(self._drops[teacher][first:last][own_N])
        self._ready_at = last

    def _rows(self, at: int) -> Tensor:
        """The table from an iteration on, after what matchers have counted, on the CPU."""
        total = len(self._teacher_T)
        rows_NW = torch.zeros(total - at, sum(self._widths), dtype=torch.float64)
        rate_N1, momenta_NL, active_NL, positions_NP = rows_NW.split(self._widths, 1)
        rates = [self._lr / 2 * (1 + math.cos(math.pi * number / total)) for number in range(at, total)]
        rate_N1.copy_(torch.tensor(rates, dtype=torch.float64).unsqueeze(1))
        for teacher, matcher in enumerate(self._matchers):
            own_N, count = self._teacher_T[at:] == teacher, len(matcher.layers)
            momenta_NL[own_N, :count], active_NL[own_N, :count] = matcher.schedule(self._drops[teacher][at:][own_N])
        positions_NP.copy_(self._positions_T2S[at:].flatten(1))
        return rows_NW.to(self._table_TW.dtype)


def _of_layers(matcher: StatisticsMatcher, drops_TC: Tensor) -> Tensor:
    """Which of a teacher's layers each iteration drops, if it is the teacher's (T,L), from draws for its Conv layers."""
    drops_TL = torch.zeros(len(drops_TC), len(matcher.layers), dtype=torch.bool)
    names, convs = [*matcher.layers], matcher.conv_layers
    drops_TL[:, [names.index(name) for name in convs]] = drops_TC[:, : len(convs)]
    return drops_TL
