"""prepare: the data set, packed into one file or listed."""

from __future__ import annotations

import math
from typing import Literal

from gvbsm.config.bounds import Count
from gvbsm.config.row import Row
from gvbsm.config.sources import Digits, ImageNet, Source
from gvbsm.config.subsets import archive_of
from gvbsm.data import DATASETS
from gvbsm.pipeline.scale import Scale
from gvbsm.pipeline.stage import Artifact, Stage, planned, prefix
from gvbsm.store.spec import Spec

# Training images of complete data sets, as their authors state: {(kind, classes): images}.
_KNOWN_SETS = {
    ("cifar10", 10): 50_000,
    ("cifar100", 100): 50_000,
    ("tiny_imagenet", 200): 100_000,
    ("imagenet", 1000): 1_281_167,
}
_DIGITS = 1797  # training and test images together


class PrepareSpec(Spec):
    """A data set and the form of its images."""

    stage: Literal["prepare"] = "prepare"
    source: Source
    classes: Count
    image_size: Count  # px
    channels: Count
    resize: Count  # px
    storage: Literal["packed", "files"]

    @property
    def known_training_images(self) -> int | None:
        """Number of training images of a complete, well-known data set; None for others, whose files must be counted."""
        if isinstance(self.source, Digits):
            return _DIGITS - math.ceil(_DIGITS * self.source.test_fraction)
        if isinstance(self.source, ImageNet) and (archive := archive_of(self.source.train)):
            return archive.training_images
        return _KNOWN_SETS.get((self.source.kind, self.classes))


def plan_prepare(row: Row) -> Artifact:
    """The data set of a row."""
    return planned(
        PrepareSpec,
        prefix(row),
        [DATASETS[row.source.kind]],
        source=row.source,
        classes=row.classes,
        image_size=row.image_size,
        channels=len(row.mean),
        resize=row.resize or row.image_size,
        storage=row.storage,
    )


def _images(_spec: PrepareSpec, scale: Scale) -> int | None:
    return scale.training_images


STAGE = Stage(
    name="prepare",
    about="pack a data set into one file",
    spec=PrepareSpec,
    checkpoints=lambda spec: False,
    images=_images,
    bytes_as_before=False,
)
