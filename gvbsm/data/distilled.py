"""Distilled images made by others: a folder, or an archive of one, with a folder per class."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import torch
from torch import Tensor

from gvbsm.data.class_names import look_alike
from gvbsm.data.files import (
    Unreadable,
    check_one_folder,
    colour_mode,
    decoding,
    open_image,
    or_archives,
    read_entries,
    square,
    to_tensor,
)
from gvbsm.data.folders import is_image
from gvbsm.errors import UserError

_NUMBERED = re.compile(r"(?:new)?([0-9]{1,9})")  # new000: SRe2L and methods based on it; 00000: RDED


class Listing(NamedTuple):
    """The files of N images, sorted by class and by number within it; the order of the numbers is that of the file names."""

    root: Path
    folders: list[str]  # name of every class's folder, by label
    labels: Tensor  # int64 (N,)
    numbers: Tensor  # int64 (N,)
    places: dict[PurePosixPath, int]  # file below the root -> index of the image


def list_images(root: Path, classes: Sequence[str] | None = None, ipc: int | None = None) -> Listing:
    """List the images of a set without decoding them.

    The folders have the names of the `classes`, or new000, new001, ... (00000, 00001, ...) by label. Without `classes`, any
    names will do, and the folders are the classes.

    Raises:
        UserError: if there are no images, the folders are not those of the classes, or one does not have `ipc` images.
    """
    files: dict[str, list[PurePosixPath]] = {}
    above: set[str] = set()
    for entry in read_entries(root):
        if entry.read and is_image(entry.path) and len(entry.path.parts) > 1:
            files.setdefault(entry.path.parent.name, []).append(entry.path)
            above.add(str(entry.path.parent.parent))
    if not files:
        raise UserError(f"{root}: expected a folder of images for every class, got {or_archives(root)}")
    check_one_folder(root, "all class folders", above)
    folders = _by_label(root, files.keys(), classes)
    mismatch = next((name for name in folders if ipc and len(files[name]) != ipc), None)
    if mismatch is not None:
        got = len(files[mismatch])
        raise UserError(
            f"{root}: expected IPC ({ipc}) images in every class, got {got} in {mismatch!r}; ask for ipc{got}, or add some"
        )
    by_label = [sorted(files[name]) for name in folders]
    return Listing(
        root,
        folders,
        torch.cat([torch.full((len(paths),), label) for label, paths in enumerate(by_label)]),
        torch.cat([torch.arange(len(paths)) for paths in by_label]),
        {path: place for place, path in enumerate(path for paths in by_label for path in paths)},
    )


def _by_label(root: Path, names: Collection[str], classes: Sequence[str] | None) -> list[str]:
    if classes is not None and set(names) == set(classes):
        return list(classes)
    numbers = {name: int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name))}
    if len(numbers) == len(names) and sorted(numbers.values()) == list(range(len(classes or names))):
        return sorted(names, key=numbers.__getitem__)
    if classes is None:
        return sorted(names)
    mismatch = min(set(names) ^ set(classes))
    alike = look_alike(mismatch, set(names) ^ set(classes))
    got = alike or f"{len(names)} {'with' if mismatch in names else 'without'} {mismatch!r}"
    raise UserError(
        f"{root}: expected folders called as the {len(classes)} classes, or new000, ... by label, got {got}; rename them"
    )


def pack(listing: Listing, images_NCHW: Tensor) -> int:
    """Decode the images into a uint8 tensor; return the number of images that were resized and cut to its S x S px.

    Raises:
        UserError: for files that are no images.
    """
    channels, size = images_NCHW.shape[1], images_NCHW.shape[-1]
    mode, resized, unreadable = colour_mode(str(listing.root), channels), 0, Unreadable()
    for entry in read_entries(listing.root, quiet=True):  # `list_images` has said what is left out
        place = listing.places.get(entry.path)
        if entry.read and place is not None:
            where = f"{listing.root}/{entry.path}"
            with unreadable.noting(where), decoding(where):
                image = open_image(where, entry.read(), mode)
                resized += image.size != (size, size)
                images_NCHW[place] = to_tensor(square(image, size, size))
    unreadable.check()
    return resized


def imagefolder_order(folders: Sequence[str], labels_N: Tensor) -> Tensor:
    """Indices of N images (sorted by label) in the order of torchvision's ImageFolder, which sorts classes by folder name."""
    by_name = sorted(range(len(folders)), key=folders.__getitem__)
    return torch.cat([(labels_N == label).nonzero().squeeze(1) for label in by_name])
