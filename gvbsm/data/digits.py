"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8 px that come with the library."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F

from gvbsm.config.sources import Digits
from gvbsm.data.raw import Form, RawDataset
from gvbsm.errors import UserError


def read(source: Digits, form: Form, data_root: Path) -> RawDataset:
    """The digits, resized bicubically to `image_size`, split by class with the row's seed.

    Raises:
        UserError: if the row asks for more than one channel.
    """
    if form.channels != 1:
        raise UserError(f"digits: expected one channel (grey), got {form.channels} in mean and std; give one value each")
    digits = load_digits()
    images = _resize(torch.from_numpy(digits.images), form.image_size)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(
        np.arange(len(labels)), test_size=source.test_fraction, stratify=digits.target, random_state=source.seed
    )
    train, test = torch.from_numpy(np.sort(train)), torch.from_numpy(np.sort(test))
    names = [str(name) for name in digits.target_names]
    return RawDataset(images[train], labels[train], images[test], labels[test], names, names)


def _resize(images_NHW: Tensor, size: int) -> Tensor:
    """Values 0..16 to uint8 (N,1,S,S)."""
    x = images_NHW.unsqueeze(1).float() * (255 / 16)
    if x.shape[-1] != size:
        x = F.interpolate(x, (size, size), mode="bicubic", align_corners=False, antialias=True)
    return x.clamp(0, 255).round().to(torch.uint8)
