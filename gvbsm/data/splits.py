"""The training and test images of a prepared data set, packed or in files, for the stages."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gvbsm.config.teachers import Augment
from gvbsm.data.augmentation import crop_and_mirror
from gvbsm.data.folders import Stamp, change, change_if_there, count_images, difference, is_there, is_visible
from gvbsm.data.listed import ListedImages, changed
from gvbsm.errors import UserError
from gvbsm.method.memory import PASSED, images_at_once
from gvbsm.method.transfer import send
from gvbsm.store.job import Reader
from gvbsm.store.spec import Json

_RESIDENT = 4 * 2**30  # largest bytes of images that are held in memory as a whole


def fits(size: int, device: torch.device) -> bool:
    """Whether images of so many bytes are held on a device, or on the CPU in memory, as a whole. On CUDA they are if they take
    a quarter of its free memory at most: networks and further images need the rest."""
    return size <= (torch.cuda.mem_get_info(device)[0] // 4 if device.type == "cuda" else _RESIDENT)


class Split(ABC):
    """N labelled images."""

    labels: Tensor  # int64 (N,)
    at_once = 500  # whole images to read together

    @abstractmethod
    def whole_images(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Whole images, uint8 (B,C,S,S), of each batch of indices."""

    @abstractmethod
    def augmented(self, batches: Iterable[tuple[Tensor, int]], part: Callable[[int], slice] = slice) -> Iterator[Tensor]:
        """Randomly cropped and mirrored images (B,C,S,S) on the device, of each batch and its seed: levels 0..255, uint8 or
        float32.

        Of a batch of B images it gives only those in `part(B)` (default: all); their values do not depend on `part`.
        """


class PackedImages(Split):
    """uint8 images (N,C,S,S) that fit into memory."""

    def __init__(self, images: Tensor, labels: Tensor, augment: Augment | None, device: torch.device) -> None:
        self.labels = labels
        self._images = images.to(device) if fits(images.nbytes, device) else images
        self._augment, self._device = augment, device
        if device.type == "cuda":  # nothing is decoded: as many as pass through a network together
            self.at_once = images_at_once(images.shape[1:].numel(), device, PASSED)

    def whole_images(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        for index in batches:
            yield self._images[send(index, self._images.device)]

    def augmented(self, batches: Iterable[tuple[Tensor, int]], part: Callable[[int], slice] = slice) -> Iterator[Tensor]:
        assert self._augment
        for index, seed in batches:
            own = part(len(index))
            yield crop_and_mirror(
                send(next(self.whole_images([index[own]])), self._device), self._augment, seed, len(index), own
            )


class FileImages(Split):
    """Images that stay in their files and are decoded by worker processes."""

    def __init__(self, listed: ListedImages, labels: Tensor, augment: Augment | None, device: torch.device) -> None:
        self.labels = labels
        self._listed = listed
        self._crop = augment.resized_crop if augment else None
        self._augment = augment.model_copy(update={"resized_crop": None}) if augment else None
        self._device = device

    def whole_images(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        yield from self._listed.load([(index, None) for index in batches], None)

    def augmented(self, batches: Iterable[tuple[Tensor, int]], part: Callable[[int], slice] = slice) -> Iterator[Tensor]:
        assert self._augment
        todo = list(batches)
        decoded = [(index[part(len(index))], seed) for index, seed in todo]
        # The workers crop, since they have the image in its original size; the other operations follow here.
        for (index, seed), bytes_PCHW in zip(todo, self._listed.load(decoded, self._crop), strict=True):
            yield crop_and_mirror(send(bytes_PCHW, self._device), self._augment, seed, len(index), part(len(index)))


def open_split(reader: Reader, data: str, split: str, device: torch.device, augment: Augment | None = None) -> Split:
    """The "train" or "test" images of a data set, `data` in the store of a reader.

    Raises:
        UserError: if the files have changed since the data set was prepared.
    """
    tensors, metadata = reader.tensors(data)
    labels = tensors[f"{split}_labels"]
    _check_unchanged(reader, data, split, metadata)
    if metadata["storage"] == "packed":
        return PackedImages(tensors[f"{split}_images"], labels, augment, device)
    paths = tensors[f"{split}_paths"]
    listed = ListedImages(
        paths=paths,
        ends=torch.cat([(paths == 0).nonzero().squeeze(1), torch.tensor([len(paths)])]),
        sizes=tensors[f"{split}_sizes"],
        times=tensors[f"{split}_times"],
        data_root=reader.data_root,
        image_size=metadata["image_size"],
        channels=metadata["channels"],
        resize=metadata["resize"],
        workers=reader.workers,
    )
    copied = _are_copies(listed, reader.receipt(data)["summary"]["source"][split], reader.data_root / metadata["roots"][split])
    return FileImages(replace(listed, copied=copied), labels, augment, device)


def _are_copies(listed: ListedImages, before: Stamp, root: Path) -> bool:
    """Whether the files below `root` have other times than when they were listed, and are the same otherwise. The first one
    tells whether the others are worth a look."""
    try:
        return listed.path(0).stat().st_mtime_ns != int(listed.times[0]) and not change(before, root)
    except OSError:
        return False  # reading the file says what is wrong with it


def _check_unchanged(reader: Reader, data: str, split: str, metadata: Json) -> None:
    """Raise UserError if the files of a split have changed; packed images no longer need their files.

    Of images in files only the number is compared here; `ListedImages` compares size and time of each file that it reads, and
    of copies the size.
    """
    receipt = reader.receipt(data)
    source = receipt["summary"].get("source")
    if source is None:
        return
    packed, root = metadata["storage"] == "packed", reader.data_root / metadata["roots"][split]
    try:
        altered = change(source[split], root) if packed else difference(source[split], {"files": count_images(root)})
    except OSError as error:
        if packed:
            if is_there(root):
                raise changed(str(error.filename or root), f"cannot be read now: {error.strerror}") from None
            return
        raise UserError(
            f"{root}: expected the images of the data set, got nothing there; put them back, or set GVBSM_DATA_ROOT to where "
            "config.yaml's data_root is"
        ) from None
    if altered:
        raise changed(str(root), altered)
    if split == "test" and "ground_truth" in source:
        truth, before = reader.data_root / receipt["spec"]["source"]["ground_truth"], source["ground_truth"]
        altered = change_if_there(before, truth, is_visible)
        if altered:
            raise changed(str(truth), altered)
