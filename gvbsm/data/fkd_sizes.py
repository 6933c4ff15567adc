"""The size at which published soft labels were made, as far as their crops and CutMix boxes tell.

Labels that were made at another size than that of the images may fit by their numbers: crops of 32 px are whole pixels at 64 px
too, and boxes of 32 px lie within 64 px. Two questions are asked of all labels read so far. Are all crops multiples of some px?
Can the boxes have been drawn at the images' size, given the shares stored beside them?
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

_LARGEST = 1024  # px, of the sizes that are tried
_BITS = 20  # what happens by chance with a probability below 2^-20 is taken for no chance
_BOXES = 4  # of so many boxes, the shares must be explained at another size
_EDGES = 40  # of so many boxes, one at least ends at the right or lower edge: published code lets two in three do so
_ENOUGH = 400  # boxes that are kept
_ROUNDING = 1e-6  # relative, of shares in float32

Box = Sequence[int]  # top, left, bottom, right, px


class Evidence:
    """What the batches read so far tell of the size they were labelled at, beside images of `size` px."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._unit = size  # px: the largest number of which the side and all edges of crops are multiples
        self._free = 0  # sides of crops that are not the whole image's, and so tell something
        self._boxes: list[tuple[Box, float]] = []

    def add(self, crop_V4: Tensor, box: Box, share: float) -> None:
        """Take a batch into account: its crops in px of the images (top, left, height, width), box and share."""
        if self._unit > 1:
            self._unit = math.gcd(self._unit, *crop_V4.flatten().tolist())
            self._free += int((crop_V4[:, 2:] < self._size).sum())
        if box and box[2] > box[0] and box[3] > box[1] and len(self._boxes) < _ENOUGH:
            self._boxes.append((box, share))

    def crops(self) -> int | None:
        """The other size, px, at which the crops were drawn; None if they may be of images of `size` px.

        Of crops drawn at `size`, each free side is a multiple of m px with a probability of about 1 / m.
        """
        return self._size // self._unit if self._unit > 1 and self._free * math.log2(self._unit) >= _BITS else None

    def boxes(self) -> int | None:
        """The other size, px, at which the boxes were drawn; None if they may be of views of `size` px, or nothing tells."""
        if not self._boxes or self._explains(self._size):
            return None
        end = max(max(box) for box, _ in self._boxes)
        others = range(end, _LARGEST + 1) if len(self._boxes) >= _BOXES else ()
        if explained := next(filter(self._explains, others), None):
            return explained
        # The shares are those of no code that is known. Boxes are cut at the edges of a view all the same.
        return end if len(self._boxes) >= _EDGES and end < self._size else None

    def _explains(self, size: int) -> bool:
        return all(_may_be(box, share, size) for box, share in self._boxes)


def size_of_crops(coordinates_V4: Tensor) -> int | None:
    """The smallest size, px, at which crops given as shares of an image's side are whole pixels; None if there is none."""
    shares = coordinates_V4.double().flatten()
    sizes = torch.arange(1, _LARGEST + 1, dtype=torch.float64)
    px = sizes[:, None] * shares[None, :1024]
    whole = ((px - px.round()).abs() <= 4e-7 * sizes[:, None]).all(1)  # float32's rounding, times some operations
    return int(sizes[whole][0]) if whole.any() and len(shares) > 4 else None


def _may_be(box: Box, share: float, size: int) -> bool:
    """Whether a box can have been drawn in views of `size` px, given the share (of a view that is its own image) beside it.

    Published code stores the share before the box is cut at the edges, from which the box's half side follows, or the share
    that is left outside the box.
    """
    top, left, bottom, right = box
    if max(bottom, right) > size:
        return False
    if math.isclose(1 - share, (bottom - top) * (right - left) / size**2, rel_tol=1e-5, abs_tol=_ROUNDING):
        return True
    side = size * math.sqrt(max(0.0, 1 - share))
    halves = {int(side * (1 - _ROUNDING)) // 2, int(side * (1 + _ROUNDING)) // 2}
    return any(_may_span(top, bottom, half, size) and _may_span(left, right, half, size) for half in halves)


def _may_span(start: int, end: int, half: int, size: int) -> bool:
    """Whether max(0, centre - half) .. min(size, centre + half) is this span, for a centre in 0 .. size - 1."""
    centres = {start + half} if start > 0 else {end - half} if end < size else set(range(size))
    return any(0 <= centre < size and (max(0, centre - half), min(size, centre + half)) == (start, end) for centre in centres)
