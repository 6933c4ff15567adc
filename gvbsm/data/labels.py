"""Soft labels for student training: views drawn again or read, logits decoded batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from torch import Tensor

from gvbsm.config.labels import ViewsOfImages
from gvbsm.config.shapes import LabelledViews
from gvbsm.data.epoch_views import FORMAT, epoch_views
from gvbsm.data.rand_augment import RandAugment
from gvbsm.errors import UserError
from gvbsm.method.coding import Coded, Coding, decode
from gvbsm.method.views import Views, digest
from gvbsm.store.job import Reader
from gvbsm.store.spec import Json

STORED = ("image", "crop", "flip", "partner", "box", "keep")  # tensors of stored views, in the order of `Views`


class Epoch(NamedTuple):
    """A labelled epoch: its views, their RandAugment if any, and their coded logits unless labels are hard."""

    views: Views
    augment: RandAugment | None
    coded: Coded | None
    coding: Coding | None

    def logits(self, positions: Tensor, classes: int, rest: str) -> Tensor:
        """Float32 logits (V,K) of the views at some positions."""
        assert self.coded is not None and self.coding is not None
        return decode({name: tensor[positions] for name, tensor in self.coded.items()}, self.coding, classes, rest)


class Labels:
    """The labelled epochs of a set of images, in order; views are drawn or read lazily."""

    def __init__(self, images: int, size: int, batch_size: int, epochs: list[_Source]) -> None:
        self.batch_size = batch_size  # views that were labelled together
        self._images, self._size = images, size
        self._epochs = epochs
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def __len__(self) -> int:
        return len(self._epochs)

    @property
    def coding(self) -> Coding | None:
        """How the logits are stored; None without any."""
        return self._epochs[0].coding if self._epochs else None

    def _epoch(self, number: int) -> Epoch:
        """One epoch.

        Raises:
            UserError: if its views, drawn again or read, differ from those that were labelled.
        """
        source = self._epochs[number]
        if source.drawn:
            views = epoch_views(source.drawn, source.epoch, self._images, self._size)
        else:
            assert source.views
            views = source.views()
        if source.digest is not None and digest(views) != source.digest:
            here, remedy = ("drawn", "please report this") if source.drawn else ("stored", "make it anew")
            raise UserError(
                f"{source.where}: epoch {source.epoch}: the views {here} here are not those that were labelled; {remedy}"
            )
        return Epoch(views, RandAugment.of(source.drawn) if source.drawn else None, source.coded, source.coding)


def views_alone(views: LabelledViews, images: int, size: int) -> Labels:
    """Views without stored labels, drawn as relabel would: for hard labels, or for teachers that label online."""
    return Labels(images, size, views.batch_size, [_Source("", views, epoch) for epoch in range(views.epochs)])


def load_labels(reader: Reader, paths: Sequence[str], images: int, size: int) -> Labels:
    """Stored labels, memory-mapped, of `images` images of `size` px.

    Raises:
        UserError: for labels of another format, or of other images.
    """
    epochs: list[_Source] = []
    batch_size = 0
    for path in paths:
        tensors, metadata = reader.tensors(path)
        epochs += _sources(str(reader.store / path), tensors, metadata, images, size)
        batch_size = batch_size or metadata["views"]["batch_size"]
    return Labels(images, size, batch_size, epochs)


class _Source(NamedTuple):
    """The source of an epoch's views and logits."""

    where: str
    drawn: ViewsOfImages | None  # how its views are drawn; None: they are stored
    epoch: int
    digest: str | None = None
    coded: Coded | None = None
    coding: Coding | None = None
    views: Callable[[], Views] | None = None  # reads stored views


def _sources(where: str, tensors: Coded, metadata: Json, images: int, size: int) -> list[_Source]:
    if metadata.get("format") != FORMAT:
        raise UserError(f"{where}: expected soft labels of format {FORMAT}, got {metadata.get('format')}; make them anew")
    drawn, coding, (first, end) = metadata["views"], Coding(**metadata["coding"]), metadata["epochs"]
    if (drawn["count"], drawn["size"]) != (images, size):
        got = f"{drawn['count']} of {drawn['size']} px"
        raise UserError(
            f"{where}: expected labels of {images} images of {size} px, got {got}; use the images that were labelled"
        )
    views = {name: tensors.pop(name) for name in STORED} if drawn.get("stored") else {}
    raw = {name: value for name, value in drawn.items() if name not in ("count", "size")}
    settings = None if views else ViewsOfImages.model_validate(raw)
    return [
        _Source(
            where,
            settings,
            epoch,
            metadata["digests"][number],
            {name: tensor[number] for name, tensor in tensors.items()},
            coding,
            partial(_stored_views, views, number) if views else None,
        )
        for number, epoch in enumerate(range(first, end))
    ]


def _stored_views(stored: dict[str, Tensor], number: int) -> Views:
    """The views of the epoch with this index in the file."""
    image_V, crop_V4, flip_V, partner_V, box_V4, keep_V = (stored[name][number] for name in STORED)
    return Views(image_V, crop_V4, flip_V.bool(), partner_V, box_V4, keep_V)
