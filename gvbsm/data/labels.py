"""Soft labels as a student's training reads them: views drawn again or read, logits decoded a batch at a time."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

from torch import Tensor

from gvbsm.artifacts import Job
from gvbsm.data.epoch_views import FORMAT, epoch_views
from gvbsm.data.rand_augment import RandAugment
from gvbsm.errors import UserError
from gvbsm.method.coding import Coded, Coding, decode
from gvbsm.method.views import Views, digest

STORED = ("image", "crop", "flip", "partner", "box", "keep")  # of views that are not drawn, in the order of `Views`


class Epoch(NamedTuple):
    """A labelled epoch: its views, what is done to them beside, and their coded logits unless labels are hard."""

    views: Views
    augment: RandAugment | None
    coded: Coded | None
    coding: Coding | None

    def logits(self, positions: Tensor, classes: int, rest: str) -> Tensor:
        """Float32 logits (V,K) of the views at some positions."""
        assert self.coded is not None and self.coding is not None
        return decode({name: tensor[positions] for name, tensor in self.coded.items()}, self.coding, classes, rest)


class Labels:
    """The labelled epochs of a set of images, in order; views are drawn, or read, when they are asked for."""

    def __init__(self, images: int, size: int, batch_size: int, epochs: list[_Source]) -> None:
        self.batch_size = batch_size  # views that were labelled together
        self._images, self._size = images, size
        self._epochs = epochs
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def __len__(self) -> int:
        return len(self._epochs)

    def _epoch(self, number: int) -> Epoch:
        """One epoch.

        Raises:
            UserError: if its views cannot be drawn again here, or are not as they were stored.
        """
        one = self._epochs[number]
        views = one.views() if one.views else epoch_views(one.drawn, one.epoch, self._images, self._size)
        if one.digest is not None and digest(views) != one.digest:
            here, remedy = ("stored", "make it anew") if one.views else ("drawn", "please report this")
            raise UserError(f"{one.where}: epoch {one.epoch}: the views {here} here are not those that were labelled; {remedy}")
        return Epoch(views, RandAugment.of(one.drawn), one.coded, one.coding)


def load_labels(job: Job, images: int, size: int) -> Labels:
    """The labels of a spec, memory-mapped, or for hard labels the same views drawn again.

    Raises:
        UserError: for labels of another format, or of other images.
    """
    if not job.spec["inputs"]["labels"]:
        drawn = job.spec["views"]
        return Labels(images, size, drawn["batch_size"], [_Source("", drawn, epoch) for epoch in range(drawn["epochs"])])
    epochs: list[_Source] = []
    for path in job.spec["inputs"]["labels"]:
        tensors, metadata = job.tensors(path)
        epochs += _sources(str(job.store / path), tensors, metadata, images, size)
    return Labels(images, size, epochs[0].drawn["batch_size"], epochs)


class _Source(NamedTuple):
    """What an epoch is made of."""

    where: str
    drawn: dict[str, Any]  # settings of its views
    epoch: int
    digest: str | None = None
    coded: Coded | None = None
    coding: Coding | None = None
    views: Callable[[], Views] | None = None  # reads those that are stored


def _sources(where: str, tensors: Coded, metadata: dict[str, Any], images: int, size: int) -> list[_Source]:
    if metadata.get("format") != FORMAT:
        raise UserError(f"{where}: expected soft labels of format {FORMAT}, got {metadata.get('format')}; make them anew")
    drawn, coding, (first, end) = metadata["views"], Coding(**metadata["coding"]), metadata["epochs"]
    if (drawn["count"], drawn["size"]) != (images, size):
        got = f"{drawn['count']} of {drawn['size']} px"
        raise UserError(
            f"{where}: expected labels of {images} images of {size} px, got {got}; use the images that were labelled"
        )
    views = {name: tensors.pop(name) for name in STORED} if drawn.get("stored") else {}
    return [
        _Source(
            where,
            drawn,
            epoch,
            metadata["digests"][number],
            {name: tensor[number] for name, tensor in tensors.items()},
            coding,
            partial(_stored_views, views, number) if views else None,
        )
        for number, epoch in enumerate(range(first, end))
    ]


def _stored_views(stored: dict[str, Tensor], number: int) -> Views:
    """The views of an epoch, by its place in the file."""
    image_V, crop_V4, flip_V, partner_V, box_V4, keep_V = (stored[name][number] for name in STORED)
    return Views(image_V, crop_V4, flip_V.bool(), partner_V, box_V4, keep_V)
