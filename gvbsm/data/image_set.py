"""The small image sets for relabelling and student training: distilled images, or as many random real images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from gvbsm.config.shapes import RandomImages
from gvbsm.data.splits import Split, fits, open_split
from gvbsm.errors import UserError
from gvbsm.store.files import nameless_tensor
from gvbsm.store.job import Reader
from gvbsm.store.keys import derive_seed

_READ_BATCH = 100  # images


class ImageSet:
    """N labelled uint8 images, sorted by class and number, read from memory-mapped files: memory does not grow with N."""

    def __init__(self, parts: Sequence[Tensor], labels: Tensor, order: Tensor) -> None:
        """Image i is image `order[i]` of the concatenated `parts`, each (n,C,S,S), and has label `labels[i]`."""
        self._parts = parts
        self._order = order
        self._ends = torch.tensor([len(part) for part in parts]).cumsum(0)
        self.labels = labels
        self.shape = torch.Size((len(labels), *parts[0].shape[1:]))

    def __getitem__(self, index_B: Tensor) -> Tensor:
        """uint8 (B,C,S,S), on the CPU."""
        at_B = self._order[index_B.cpu()]
        part_B = torch.searchsorted(self._ends, at_B, right=True)
        images = torch.empty(len(at_B), *self.shape[1:], dtype=torch.uint8)
        for number in part_B.unique().tolist():
            rows = part_B == number
            start = int(self._ends[number]) - len(self._parts[number])
            images[rows] = self._parts[number][at_B[rows] - start]
        return images

    def resident(self, device: torch.device) -> Tensor | ImageSet:
        """All images on the device, or this image set itself if they are too many."""
        if not fits(self.shape.numel(), device):
            return self
        images = torch.empty(self.shape, dtype=torch.uint8, device=device)
        for at in range(0, len(images), _READ_BATCH):  # all at once might be more than the host's memory
            part = images[at : at + _READ_BATCH]
            part.copy_(self[torch.arange(at, at + len(part))])
        return images


def open_image_set(reader: Reader, shards: Sequence[str] | None, data: str | None, random: RandomImages | None) -> ImageSet:
    """The distilled images of some shards, or random real images of a data set if a spec asks for them.

    Raises:
        UserError: if a class has fewer training images than asked for.
    """
    if random is None:
        return load_image_set(reader, shards or [])
    assert data is not None
    train = open_split(reader, data, "train", torch.device("cpu"))
    remedy = "ask for fewer images per class"
    check_images_per_class(train.labels, reader.classes or [], random.ipc, "random baselines", remedy)
    return _image_set(train, random_choice(train.labels, random.ipc, random.seed), reader.checkpoints)


def real_images(reader: Reader, data: str, random: RandomImages, classes: int) -> ImageSet:
    """The random real images of the first classes alone, fewer where a class has fewer.

    Raises:
        UserError: if the files of the data set are gone or have changed.
    """
    train = open_split(reader, data, "train", torch.device("cpu"))
    chosen = random_choice(train.labels, random.ipc, random.seed)
    return _image_set(train, chosen[train.labels[chosen] < classes], None)


def _image_set(train: Split, chosen: Tensor, folder: Path | None) -> ImageSet:
    """The training images at these indices, in a nameless file in a folder if they are too large for memory."""
    images = _joined(train.whole_images(chosen.split(_READ_BATCH)), len(chosen), folder)
    return ImageSet([images], train.labels[chosen], torch.arange(len(chosen)))


def load_image_set(reader: Reader, paths: Sequence[str]) -> ImageSet:
    """The images of some shards."""
    shards = [reader.tensors(path)[0] for path in paths]
    labels, numbers = (torch.cat([shard[name] for shard in shards]) for name in ("labels", "numbers"))
    order = torch.argsort(labels * (int(numbers.max()) + 1) + numbers)
    return ImageSet([shard["images"] for shard in shards], labels[order], order)


def _joined(batches: Iterator[Tensor], count: int, folder: Path | None) -> Tensor:
    """Batches of images joined in one tensor of `count` images, which is a nameless file if it is too large for memory."""
    images, at = torch.empty(0), 0
    for batch in batches:
        if not at:
            images = allocated(torch.Size((count, *batch.shape[1:])), folder)
        images[at : at + len(batch)] = batch
        at += len(batch)
    return images


def allocated(shape: torch.Size, folder: Path | None) -> Tensor:
    """uint8 memory for images, in a nameless file in a folder (None: of temporary files) if they are too large."""
    if fits(shape.numel(), torch.device("cpu")):
        return torch.empty(shape, dtype=torch.uint8)
    return nameless_tensor(folder, shape, torch.uint8)


def check_images_per_class(labels_N: Tensor, classes: Sequence[str], needed: int, user: str, remedy: str) -> None:
    """Raise UserError if a class, of these identifiers, has fewer training images than `user` needs."""
    counts_K = torch.bincount(labels_N, minlength=len(classes))
    least = int(counts_K.argmin())
    if counts_K[least] < needed:
        raise UserError(
            f"{user}: expected at least {needed} training images in every class, got {counts_K[least]} in class "
            f"{classes[least]!r}; {remedy}"
        )


def random_choice(labels_N: Tensor, ipc: int, seed: int) -> Tensor:
    """Indices of `ipc` images of every class, or of all of a smaller one, drawn without replacement; the choice at IPC 10 is
    the first ten of IPC 50."""
    chosen = []
    for label in range(int(labels_N.max()) + 1):
        members = (labels_N == label).nonzero().squeeze(1)
        generator = torch.Generator().manual_seed(derive_seed(seed, "random images", label))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:ipc]])
    return torch.cat(chosen)
