"""A pass of a matcher alone, for benchmarks and tests: recover schedules many at a time (`gvbsm.method.recovery`)."""

from collections.abc import Collection

import torch
from torch import Tensor

from gvbsm.method.matching import StatisticsMatcher


def next_shares(matcher: StatisticsMatcher, dropped: Collection[str], device: torch.device) -> Tensor:
    """Momenta and shares of the layers (2,L) in the next pass, which drops these layers and counts as made."""
    dropped_1L = torch.tensor([[name in dropped for name in matcher.layers]], dtype=torch.bool)
    momenta_1L, active_1L = matcher.schedule(dropped_1L)
    matcher.count(dropped_1L)
    return torch.cat([momenta_1L, active_1L]).to(device, matcher.average_N.dtype)


def one_pass(
    matcher: StatisticsMatcher, x_BCHW: Tensor, dropped: Collection[str] = frozenset(), labels_B: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Logits (B,K) and the weighted statistics loss, a scalar, of a batch; the averages advance by one step."""
    momenta_L, active_L = next_shares(matcher, dropped, x_BCHW.device)
    return matcher.pass_through(x_BCHW, momenta_L, active_L, matcher.classes_of(labels_B), frozenset(dropped))
