"""Batches, who is in them, and the parts of them that pass together, none of which is a single image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def members_of(groups: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Label and number in its class (each int64, N) of every image of groups that are given as [class, first image, end]."""
    labels = [torch.full((end - first,), label) for label, first, end in groups]
    numbers = [torch.arange(first, end) for _, first, end in groups]
    return torch.cat(labels), torch.cat(numbers)


def split_batches(indices: Tensor, size: int) -> list[Tensor]:
    """`indices` in batches of `size`; the last batch may be smaller, but a single image joins the batch before.

    BatchNorm has no moments of one value per channel.
    """
    batches = list(indices.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def split_parts(batch: Tensor, full: int, parts: int) -> list[Tensor]:
    """A batch in equal parts that pass one after the other.

    A batch of `full` images has `parts` parts. A shorter one has fewer, so that no part is smaller than half of a full batch's.
    """
    size = -(-full // parts)
    even = list(batch.tensor_split(min(parts, -(-len(batch) // size))))
    return even if size == 1 or len(even[-1]) > 1 else split_batches(batch, size)


def parts_measured(batches: Sequence[Tensor], size: int | None) -> list[int]:
    """The sizes of the parts of these batches of which BatchNorm takes moments: of `size` views, or (None) whole batches."""
    return [len(part) for batch in batches for part in split_batches(batch, size or len(batch))]
