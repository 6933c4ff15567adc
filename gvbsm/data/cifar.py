"""CIFAR-10 and CIFAR-100, through torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from gvbsm.data.raw import Form, RawDataset
from gvbsm.errors import UserError


def read(source: dict[str, Any], form: Form, data_root: Path) -> RawDataset:
    """50,000 training and 10,000 test images of 32 px, downloaded to the data root if they are not there.

    torchvision checks the archive and every file in it against known MD5 sums before it reads them.

    Raises:
        UserError: if the row asks for another size or for grey, or the archive can neither be found nor downloaded.
    """
    from torchvision import datasets

    kind = source["kind"]
    if (form.image_size, form.channels) != (32, 3):
        raise UserError(
            f"{kind}: expected image_size 32 and 3 channels, got {form.image_size} and {form.channels}; correct the row"
        )
    dataset: Any = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[kind]
    try:
        data_root.mkdir(parents=True, exist_ok=True)
        train, test = (dataset(str(data_root), train=split, download=True) for split in (True, False))
    except (URLError, RuntimeError, OSError) as error:
        place = data_root / dataset.filename
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{kind}: expected {place} (MD5 {dataset.tgz_md5}), which could not be had: {reason}; put the file from "
            f"{dataset.url} there"
        ) from None
    names = [name.replace("_", " ") for name in train.classes]
    return RawDataset(*_pack(train), *_pack(test), list(train.classes), names)


def _pack(split: Any) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(split.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(split.targets)
