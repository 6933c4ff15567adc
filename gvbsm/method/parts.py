"""Batches, and the parts of them that pass together, none of which is a single image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def split_batches(indices: Tensor, size: int) -> list[Tensor]:
    """`indices` in batches of `size`; the last batch may be smaller, but a single image joins the batch before.

    BatchNorm has no moments of one value per channel.
    """
    batches = list(indices.split(size))
    if len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def parts_measured(batches: Sequence[Tensor], size: int | None) -> list[int]:
    """The sizes of the parts of these batches of which BatchNorm takes moments: of `size` views, or (None) whole batches."""
    return [len(part) for batch in batches for part in split_batches(batch, size or len(batch))]
