"""Soft labels as SRe2L, G-VBSM and EDC publish them: folders epoch_<k> of files batch_<i>.tar, saved by torch.

A file is a list: the crops' coordinates, flips, partners, share, box, logits. In SRe2L a seeded sampler gives the order of the
images. G-VBSM and EDC store the indices of the images, and EDC also the shuffling of patches, which must be none.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import RandomSampler

from gvbsm.data.epoch_views import FORMAT
from gvbsm.data.first_bytes import check_folders_above
from gvbsm.data.fkd_sizes import Evidence, size_of_crops
from gvbsm.data.folders import is_there
from gvbsm.data.labels import STORED
from gvbsm.data.torch_files import load_torch
from gvbsm.errors import UserError
from gvbsm.method.coding import Coded, Coding, encode
from gvbsm.method.views import Views, digest, mixed_hard_labels
from gvbsm.store.spec import Json

_SCALAR = np.float64(0).__reduce__()[0]  # makes a numpy number from its bytes; numpy 2 has renamed it
_ALLOWED: list[Any] = [
    (_SCALAR, "numpy.core.multiarray.scalar"),
    (_SCALAR, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in ("float64", "float32", "int64", "int32")),
]
# Labels that fit agree with their classes this far on the way from chance to always, or more often: those published do on more
# than half of the mixed views. What is rarer than one in ten thousand is not taken for chance.
_FITTING, _TOO_RARE = 0.25, 1e-4
_WHOLE = 0.01  # px, tolerance for whole pixels: coordinates are float32 shares of an image's side


class _Batch(NamedTuple):
    """V views that were labelled together."""

    crop_V4: Tensor  # int64: top, left, height, width, px
    flip_V: Tensor  # bool
    partner_V: Tensor  # int64: position in the batch
    box: list[int]  # top, left, bottom, right, px; empty without CutMix
    share: float  # of the view that is its own image
    logits_VK: Tensor
    index_V: Tensor | None  # int64: ImageFolder's index of the images, if it is stored


@dataclass(frozen=True)
class PublishedLabels:
    """A folder of published soft labels of N images."""

    root: Path
    labels_N: Tensor  # int64: the images' classes
    order_N: Tensor  # indices of the images in ImageFolder's order, see `imagefolder_order`
    size: int  # px
    classes: int
    seed: int  # of the sampler

    @cached_property
    def _first(self) -> _Batch:
        return self._read(self.root / "epoch_0" / "batch_0.tar")

    @cached_property
    def _evidence(self) -> Evidence:
        """Of the size, in what was converted so far."""
        return Evidence(self.size)

    @property
    def batch_size(self) -> int:
        """Views of every batch but the last."""
        return len(self._first.flip_V)

    @property
    def coding(self) -> Coding:
        """A lossless coding of the logits."""
        return Coding("float16" if self._first.logits_VK.dtype == torch.float16 else "float32")

    def orders(self, first: int) -> Iterator[Tensor]:
        """ImageFolder's indices (N,) in the order of the views, of the epochs from `first` on."""
        sampler = RandomSampler(range(len(self.order_N)), generator=torch.Generator().manual_seed(self.seed))
        return itertools.islice((torch.tensor(list(sampler)) for _ in itertools.count()), first, None)

    def convert(self, epoch: int, order_V: Tensor, coding: Coding, into: dict[str, Tensor]) -> tuple[str, int]:
        """Write an epoch's views and logits into `into`: the tensors of `one_view`, with V views. Return the views' digest and
        the number of views whose largest logit is that of their class.

        Raises:
            UserError: for batches that are missing, damaged, of other images, or hold anything but tensors and numbers.
        """
        views, right = Views(*(into[name] for name in STORED)), 0
        for first, file in self._files(epoch):
            batch = self._read(file)
            positions = torch.arange(first, first + len(batch.flip_V))
            self._check_count(file, first, len(positions))
            self._evidence.add(batch.crop_V4, batch.box, batch.share)
            _write_batch(views, positions, batch, self.size)
            index_V = order_V[positions] if batch.index_V is None else batch.index_V
            views.image_V[positions] = self.order_N[index_V].int()
            truth_V = mixed_hard_labels(self.labels_N, views, positions, self.classes, mixed=True).argmax(1)
            right += int((batch.logits_VK.argmax(1) == truth_V).sum())
            for name, values in encode(batch.logits_VK.float(), coding).items():
                if not torch.isfinite(values).all():
                    raise _mismatch(
                        file,
                        f"logits that {coding.values} can hold",
                        "others; set relabel.coding.values: float32 and top: null",
                    )
                into[name][positions] = values
        self._check_size(epoch)
        if not torch.equal(views.image_V.sort().values, torch.arange(len(views)).int()):
            raise _mismatch(self.root / f"epoch_{epoch}", "every image once", "some twice; fetch the labels again")
        return digest(views), right

    def check_agreement(self, right: int, views: int) -> None:
        """Raise UserError if the labels agree with the views' classes no more often than by chance, and there are views enough
        to say so: labels that fit would very probably agree more often."""
        from scipy.stats import binom

        shares = torch.bincount(self.labels_N, minlength=self.classes).double() / len(self.labels_N)
        chance = float((shares**2).sum())  # labels of the same images in another order
        if chance == 1:  # a single class
            return
        at_least = chance + _FITTING * (1 - chance)
        seems_chance = binom.sf(right - 1, views, chance) > _TOO_RARE
        if seems_chance and binom.cdf(right, views, at_least) < _TOO_RARE:
            raise UserError(
                f"{self.root}: expected labels that fit the images, got their class on {right} of {views} views, as by chance; "
                "use the images that were labelled, and the seed of the sampler"
            )

    def metadata(self, first: int, digests: list[str], coding: Json) -> Json:
        """The metadata of a file of converted labels (docs/soft-labels.md)."""
        views = {"count": len(self.labels_N), "size": self.size, "batch_size": self.batch_size, "stored": True}
        epochs = [first, first + len(digests)]
        return {"format": FORMAT, "epochs": epochs, "views": views, "digests": digests, "coding": coding}

    def _check_size(self, epoch: int) -> None:
        """Raise UserError if the labels converted so far can only have been made at another size."""
        for what, size in (("crops", self._evidence.crops()), ("CutMix boxes", self._evidence.boxes())):
            if size:
                raise _mismatch(
                    self.root / f"epoch_{epoch}",
                    f"{what} of images of {self.size} px",
                    f"{what} of {size} px; {_other_size(size)}",
                )

    def _files(self, epoch: int) -> Iterator[tuple[int, Path]]:
        """The files of an epoch, each with the position of its first view."""
        folder = self.root / f"epoch_{epoch}"
        if not folder.is_dir():
            check_folders_above(folder)
            raise UserError(
                f"{folder}: expected the labels of an epoch, got nothing there; fetch them, or lower relabel.epochs of a row "
                "that asks for them"
            )
        starts = range(0, len(self.labels_N), self.batch_size)
        beyond = folder / f"batch_{len(starts)}.tar"
        if beyond.exists():
            raise _mismatch(
                beyond, f"{len(starts)} batches, of {len(self.labels_N)} images", "more; use the images that were labelled"
            )
        return ((first, folder / f"batch_{number}.tar") for number, first in enumerate(starts))

    def _check_count(self, file: Path, first: int, got: int) -> None:
        expected = min(self.batch_size, len(self.labels_N) - first)
        if got != expected:
            of = f"{len(self.labels_N)} images in batches of {self.batch_size}"
            raise _mismatch(file, f"{expected} views ({of})", f"{got}; use the images that were labelled")

    def _read(self, file: Path) -> _Batch:
        entries = _load(file)
        again = "fetch the file again"
        if not isinstance(entries, list) or not 6 <= len(entries) <= 8:
            got = f"{len(entries)} entries" if isinstance(entries, list) else type(entries).__name__
            raise _mismatch(file, "a list of 6 to 8 entries", f"{got}; {again}")
        coordinates, flip_V, partner_V, share, box, logits = entries[:6]
        count = len(flip_V) if isinstance(flip_V, Tensor) and flip_V.ndim == 1 else 0
        index_V = entries[6] if len(entries) > 6 else None
        _check(file, "which views are mirrored", flip_V, (count,), torch.bool)
        _check(file, "coordinates", coordinates, (count, 4), torch.float32, torch.float64)
        if isinstance(logits, Tensor) and logits.shape[1:] != (self.classes,):
            got = f"{tuple(logits.shape)}; use the labels of this data set"
            raise _mismatch(file, f"logits of {self.classes} classes", got)
        _check(file, "logits", logits, (count, self.classes), torch.float16, torch.float32)
        for what, places, end in (("partners", partner_V, count), ("images", index_V, len(self.order_N))):
            if places is not None:
                _check(file, what, places, (count,), torch.int64, torch.int32)
                if not ((places >= 0) & (places < end)).all():
                    raise _mismatch(file, f"{what} below {end}", "others; use the images that were labelled")
        if len(entries) > 7 and (not isinstance(entries[7], Tensor) or entries[7].any()):
            raise _mismatch(file, "images whose patches were not shuffled", "others; such views cannot be converted")
        crop_V4 = _pixels(file, coordinates, self.size)
        edges, own_share = _mixing(file, partner_V is not None, share, box, self.size)
        partner_V = torch.arange(count) if partner_V is None else partner_V
        return _Batch(crop_V4, flip_V, partner_V, edges, own_share, logits, index_V)


def one_view(classes: int, coding: Coding) -> Coded:
    """The tensors of a file of converted labels, for one view: (1, ...)."""
    number, box = torch.zeros(1, dtype=torch.int32), torch.zeros(1, 4, dtype=torch.int16)
    views = (number, box, torch.zeros(1, dtype=torch.uint8), number, box, torch.zeros(1))
    return dict(zip(STORED, views, strict=True)) | encode(torch.zeros(1, classes), coding)


def _write_batch(views: Views, position_V: Tensor, batch: _Batch, size: int) -> None:
    """Write a batch's views at these positions, all parameters except the images."""
    views.crop_V4[position_V] = batch.crop_V4.short()
    views.flip_V[position_V] = batch.flip_V.to(views.flip_V.dtype)
    views.partner_V[position_V] = position_V[batch.partner_V.long()].int()
    top, left, bottom, right = batch.box or (0, 0, 0, 0)
    views.box_V4[position_V] = torch.tensor([top, left, bottom, right], dtype=torch.int16)
    share = 1 - (bottom - top) * (right - left) / size**2 if batch.box else batch.share
    alone_V = batch.partner_V == torch.arange(len(position_V))
    views.keep_V[position_V] = torch.full((len(position_V),), share).masked_fill(alone_V, 1.0)


def _pixels(file: Path, coordinates_V4: Tensor, size: int) -> Tensor:
    """Crops in px, rounded as PIL does when the published loaders crop."""
    start_V2, side_V2 = (coordinates_V4.double() * size).split(2, dim=1)
    edges_V22 = torch.stack([start_V2, start_V2 + side_V2], 1)
    start_V2, end_V2 = edges_V22.round().long().unbind(1)
    if not ((edges_V22 - edges_V22.round()).abs() < _WHOLE).all():  # also true for NaN
        labelled = size_of_crops(coordinates_V4)
        got = (
            f"such of {labelled} px; {_other_size(labelled)}"
            if labelled
            else "others; use images of the size that was labelled"
        )
        raise _mismatch(file, f"crops of whole pixels of images of {size} px", got)
    if not ((start_V2 >= 0) & (end_V2 > start_V2) & (end_V2 <= size)).all():
        raise _mismatch(file, "crops inside the images", "others; fetch the file again")
    return torch.cat([start_V2, end_V2 - start_V2], 1)


def _mixing(file: Path, mixed: bool, share: Any, box: Any, size: int) -> tuple[list[int], float]:
    """The box of a batch, and the share of a view that is its own image, as plain numbers."""
    if not mixed:
        return [], 1.0
    try:
        edges, own_share = [int(edge) for edge in (() if box is None else box)], float(share)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise _mismatch(file, "numbers for box and share", "others; fetch the file again") from None
    if edges:
        top, left, bottom, right = edges if len(edges) == 4 else [-1] * 4
        if not (0 <= top <= bottom <= size and 0 <= left <= right <= size):
            raise _mismatch(file, f"a box in views of {size} px", f"{edges}; use images of the size that was labelled")
    if not 0 <= own_share <= 1:
        raise _mismatch(file, "a share from 0 to 1", f"{own_share}; fetch the file again")
    return edges, own_share


def _load(file: Path) -> Any:
    """The content of a file that torch saved; only tensors, Python's plain types and numpy's numbers are allowed."""
    if not is_there(file):
        check_folders_above(file)
        raise UserError(f"{file}: expected a batch of soft labels, got nothing there; fetch it, or correct the path")
    return load_torch(file, str(file), "tensors and numbers alone", "fetch it from those who made it", _ALLOWED)


def _other_size(size: int) -> str:
    return f"use the images of {size} px that were labelled (in a row: image_size: {size})"


def _check(file: Path, what: str, value: Any, shape: tuple[int, ...], *types: torch.dtype) -> None:
    if not isinstance(value, Tensor) or tuple(value.shape) != shape or value.dtype not in types or not value.numel():
        got = f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise _mismatch(file, f"{what} as {types[0]} {shape}", f"{got}; fetch the file again")


def _mismatch(file: Path, expected: str, got: str) -> UserError:
    return UserError(f"{file}: expected {expected}, got {got}")
