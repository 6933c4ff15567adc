"""Where a data set's images come from: typed like every setting, one class per kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from gvbsm.store.spec import Strict

Seed = Annotated[int, Field(ge=0, lt=2**31)]
DataPath = Annotated[str, StringConstraints(pattern=r"^[^\x00]+$")]  # absolute, or below the data root


class Digits(Strict):
    """scikit-learn's 1,797 handwritten digits, split by class."""

    kind: Literal["digits"]
    seed: Seed  # of the stratified split
    test_fraction: Annotated[float, Field(gt=0, lt=1)]


class Cifar(Strict):
    """CIFAR-10 or CIFAR-100, downloaded to the data root."""

    kind: Literal["cifar10", "cifar100"]


class Files(Strict):
    """Images in files that may change."""

    version: Annotated[int, Field(ge=1)] | None = None  # raised when they did: everything made from them is made anew


class TinyImageNet(Files):
    """Tiny-ImageNet's official zip, downloaded if it is not there."""

    kind: Literal["tiny_imagenet"]
    path: DataPath


class ImageFolder(Files):
    """A folder, or an archive of one, with `train/<class>/*` and `test/<class>/*` (or `val`, `valid`)."""

    kind: Literal["imagefolder"]
    path: DataPath


class ImageNet(Files):
    """ImageNet's folders: `train` by class, `val` by class or flat with the official ground truth."""

    kind: Literal["imagenet"]
    train: DataPath
    val: DataPath
    ground_truth: DataPath | None = None  # the development kit, ILSVRC2012_validation_ground_truth.txt or LOC_val_solution.csv


Source = Annotated[Digits | Cifar | TinyImageNet | ImageFolder | ImageNet, Field(discriminator="kind")]
