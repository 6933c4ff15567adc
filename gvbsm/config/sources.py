"""Sources of images as typed settings: one class per kind."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gvbsm.config.bounds import text_like
from gvbsm.config.subsets import Classes
from gvbsm.store.spec import Strict

Seed = Annotated[int, Field(ge=0, lt=2**31)]
DataPath = Annotated[str, *text_like(r"[^\x00]+", "a path without NUL")]  # absolute, or below the data root


class Digits(Strict):
    """scikit-learn's 1,797 handwritten digits, split by class."""

    kind: Literal["digits"] = Field(description="Kind of the source.")
    seed: Seed = Field(description="Seed of the split by class.")
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = Field(description="Share of the images that are test images.")


class Cifar(Strict):
    """CIFAR-10 or CIFAR-100, downloaded to the data root."""

    kind: Literal["cifar10", "cifar100"] = Field(description="Kind of the source.")


class Files(Strict):
    """Images in files that may change."""

    version: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Number to raise when the files have changed: everything made from them is made anew."
    )


class TinyImageNet(Files):
    """Tiny-ImageNet's official zip, downloaded if it is not there."""

    kind: Literal["tiny_imagenet"] = Field(description="Kind of the source.")
    path: DataPath = Field(description="The official zip, downloaded if it is not there.")


class ImageFolder(Files):
    """A folder, or an archive of one, with `train/<class>/*` and `test/<class>/*` (or `val`, `valid`)."""

    kind: Literal["imagefolder"] = Field(description="Kind of the source.")
    path: DataPath = Field(description="The folder or archive.")


class ImageNet(Files):
    """ImageNet, or some of its classes: `train` by class, `val` by class or flat with the official ground truth."""

    kind: Literal["imagenet"] = Field(description="Kind of the source.")
    train: DataPath = Field(
        description="Folder of training images by class; or, if `val` names it too, a folder or archive of `train` and `val`."
    )
    val: DataPath = Field(description="Folder of validation images by class, or flat with `ground_truth`.")
    ground_truth: DataPath | None = Field(
        default=None,
        description="Labels of a flat `val`: the development kit (folder, archive or its text file), or LOC_val_solution.csv.",
    )
    classes: Classes | None = Field(
        default=None, description="WordNet ids of the classes that are read, or the name of a subset; off: all."
    )

    @model_validator(mode="after")
    def _truth_belongs_to_a_flat_folder(self) -> ImageNet:
        if self.train == self.val and self.ground_truth is not None:
            raise ValueError("ground_truth: expected off where train and val are one folder or archive; remove it")
        return self


Source = Annotated[Digits | Cifar | TinyImageNet | ImageFolder | ImageNet, Field(discriminator="kind")]


class Distilled(Files):
    """Images by others, below the data root or absolute, instead of recover's; perhaps with their soft labels."""

    images: DataPath = Field(
        description="Folder or archive with a folder of images per class, named as the class or by label (`new000`, ...)."
    )
    labels: DataPath | None = Field(
        default=None, description="Folder of published soft labels, `epoch_<k>/batch_<i>.tar`; off: relabel makes new ones."
    )
    seed: Seed | None = Field(
        default=None, description="Seed of the sampler when the labels were made, given with `labels` alone. published: 42."
    )

    @model_validator(mode="after")
    def _seed_belongs_to_labels(self) -> Distilled:
        if (self.labels is None) != (self.seed is None):
            raise ValueError("seed: expected exactly when labels are given; add (published scripts: 42) or remove it")
        return self
