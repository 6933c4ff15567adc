"""One of several processes that train one network together: its part of a batch, and sums over all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, distributed


@dataclass(frozen=True)
class Ranks:
    """One rank of the processes that train together; a single process does not communicate."""

    rank: int = 0
    size: int = 1

    def part(self, count: int) -> slice:
        """This rank's part of `count` items: consecutive ones, perhaps none."""
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def gather_rows(self, part_PK: Tensor, count: int) -> Tensor:
        """The rows of all ranks (B,K); only this rank's rows carry gradients."""
        if self.size == 1:
            return part_PK
        own_rows = self.part(count)
        all_BK = part_PK.new_zeros(count, *part_PK.shape[1:])
        all_BK[own_rows] = part_PK.detach()
        distributed.all_reduce(all_BK)
        return torch.cat([all_BK[: own_rows.start], part_PK, all_BK[own_rows.stop :]])

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace every tensor by its sum over the ranks, in place."""
        if self.size > 1 and tensors:
            flat = torch.cat([tensor.flatten() for tensor in tensors])
            distributed.all_reduce(flat)
            for tensor, summed in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
                tensor.copy_(summed.view_as(tensor))

    def any(self, *flags: bool) -> list[bool]:
        """For each flag, whether it is set on any rank; the same result on every rank."""
        if self.size == 1:
            return list(flags)
        counts = torch.tensor(flags, dtype=torch.int32)  # on the CPU, so that no device waits for it
        distributed.all_reduce(counts)
        return [count > 0 for count in counts.tolist()]


def ranks() -> Ranks:
    """This process's rank; rank 0 of 1 if it trains alone."""
    if distributed.is_available() and distributed.is_initialized():
        return Ranks(distributed.get_rank(), distributed.get_world_size())
    return Ranks()
