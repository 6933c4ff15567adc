"""A user's own folder of images: train/<class>/* and test/<class>/* (or val, valid)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from gvbsm.data.raw import RawDataset
from gvbsm.errors import UserError

_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif"}
_TEST_NAMES = ("test", "val", "valid")


def read(source: dict[str, Any], *, classes: int, image_size: int, channels: int, data_root: Path) -> RawDataset:
    """Every image, its shorter side resized to `image_size` and the centre cut out, in grey or RGB.

    Raises:
        UserError: for a missing folder, a class that only one split has, or a file that is no image.
    """
    root = data_root / source["path"]
    train_folder = _split(root, ("train",))
    test_folder = _split(root, _TEST_NAMES)
    names = _class_names(train_folder)
    if names != _class_names(test_folder):
        odd = sorted(set(names) ^ set(_class_names(test_folder)))[0]
        raise UserError(f"{root}: expected the same classes in {train_folder.name} and {test_folder.name}, got {odd!r} in one")
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise UserError(f"{root}: expected 1 (grey) or 3 (RGB) channels, got {channels} in mean and std; correct the row")
    train_images, train_labels = _pack(train_folder, names, image_size, mode)
    test_images, test_labels = _pack(test_folder, names, image_size, mode)
    return RawDataset(train_images, train_labels, test_images, test_labels, names)


def _split(root: Path, choices: tuple[str, ...]) -> Path:
    for choice in choices:
        if (root / choice).is_dir():
            return root / choice
    raise UserError(f"{root}: expected a folder {' or '.join(choices)} of class folders, got none; put the images there")


def _class_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _pack(folder: Path, names: list[str], size: int, mode: str) -> tuple[Tensor, Tensor]:
    images, labels = [], []
    for label, name in enumerate(names):
        for path in sorted((folder / name).iterdir()):
            if path.suffix.lower() in _SUFFIXES:
                images.append(_read_image(path, size, mode))
                labels.append(label)
    if not images:
        raise UserError(f"{folder}: expected images in its class folders, got none; add some")
    return torch.stack(images), torch.tensor(labels)


def _read_image(path: Path, size: int, mode: str) -> Tensor:
    try:
        with Image.open(path) as image:
            square = ImageOps.fit(ImageOps.exif_transpose(image).convert(mode), (size, size), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{path}: expected an image, got {type(error).__name__}; replace or remove the file") from None
    pixels = torch.from_numpy(np.array(square))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1)
