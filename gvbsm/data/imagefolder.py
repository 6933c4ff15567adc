"""A user's own images: a folder, or an archive of one, with train/<class>/* and test/<class>/* (or val, valid)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gvbsm.data.files import colour_mode, decode_image, is_image, read_entries
from gvbsm.data.raw import RawDataset
from gvbsm.errors import UserError

_TEST_NAMES = ("test", "val", "valid")
Labelled = dict[str, list[tuple[str, Tensor]]]  # class -> (path, image)


def read(source: dict[str, Any], *, classes: int, image_size: int, channels: int, data_root: Path) -> RawDataset:
    """Every image below train/<class> and test/<class>, at any depth, sorted by class and path.

    Raises:
        UserError: for a missing folder, a class that only one split has, or a file that is no image.
    """
    root = data_root / source["path"]
    mode = colour_mode(str(root), channels)
    splits: dict[str, Labelled] = {}
    for entry in read_entries(root):
        parts = entry.path.parts
        at = next((i for i, part in enumerate(parts) if part in ("train", *_TEST_NAMES)), len(parts))
        if at + 1 >= len(parts):
            continue
        in_folder = entry.content is None or at + 2 < len(parts)
        if not in_folder or parts[at + 1].startswith("."):
            continue
        labelled = splits.setdefault(parts[at], {}).setdefault(parts[at + 1], [])
        if entry.content is not None and is_image(entry.path):
            labelled.append((str(entry.path), decode_image(f"{root}/{entry.path}", entry.content, image_size, mode)))
    train = _split(root, splits, ("train",))
    test = _split(root, splits, _TEST_NAMES)
    odd = sorted(train.keys() ^ test.keys())
    if odd:
        raise UserError(f"{root}: expected the same classes in train and test, got {odd[0]!r} in one; add or remove it")
    return RawDataset(*_stack(root, train), *_stack(root, test), sorted(train))


def _split(root: Path, splits: dict[str, Labelled], choices: tuple[str, ...]) -> Labelled:
    for choice in choices:
        if choice in splits:
            return splits[choice]
    raise UserError(f"{root}: expected a folder {' or '.join(choices)} of class folders, got none; put the images there")


def _stack(root: Path, labelled: Labelled) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for label, name in enumerate(sorted(labelled)):
        for _, image in sorted(labelled[name], key=lambda pair: pair[0]):
            images.append(image)
            labels.append(label)
    if not images:
        raise UserError(f"{root}: expected images in its class folders, got none; add some")
    return torch.stack(images), torch.tensor(labels)
