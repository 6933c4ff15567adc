"""What a reader returns, and the checks that every data set must pass."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gvbsm.errors import UserError


@dataclass(frozen=True)
class RawDataset:
    """Packed images: uint8 (N,C,S,S) and int64 labels (N,), of training and test split."""

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: list[str]

    def check(self, what: str, classes: int) -> None:
        """Raise UserError if the number of classes differs from `classes`, or a class has no image in a split."""
        if len(self.class_names) != classes:
            raise UserError(f"{what}: expected {classes} classes, got {len(self.class_names)}; correct `classes` in the row")
        for split, labels in (("train", self.train_labels), ("test", self.test_labels)):
            counts = torch.bincount(labels, minlength=classes)
            if not counts.all():
                name = self.class_names[int(counts.argmin())]
                raise UserError(f"{what}: {split}: expected images in every class, got none in {name!r}; add some")
