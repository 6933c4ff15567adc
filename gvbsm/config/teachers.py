"""Settings of teachers: how they are trained, and how what they see in real images is measured."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gvbsm.config.bounds import Batch, Epochs, Pixels, Shares, unit
from gvbsm.config.sources import Seed, Strict
from gvbsm.config.steps import Compute, Optimised


class Augment(Strict):
    """Random crop and flip of squeeze, statistics and recover."""

    pad: Pixels | None = Field(
        default=None, description="Zeros around an image before a random crop of its own size; off: no such crop."
    )
    resized_crop: Shares | None = Field(
        default=None, description="Smallest and largest share of the area that a random resized crop keeps, instead of `pad`."
    )
    flip: bool = Field(description="Mirror half of the images left to right.")

    @model_validator(mode="after")
    def _at_most_one_crop(self) -> Augment:
        if self.pad and self.resized_crop:
            raise ValueError("expected one of pad and resized_crop, got both (one may be an extended row's); set one to null")
        return self


class Squeeze(Optimised):
    """Training of one teacher."""

    epochs: Epochs = Field(description="Length of the training.")
    keep_epoch: Epochs | None = Field(
        default=None,
        description="Keep the weights after this epoch; off: after the last. published: 1 of 5, 41 of 50; corrected: off.",
    )
    keep_epochs: Annotated[list[Epochs], Field(min_length=1, max_length=20)] | None = Field(
        default=None,
        description="Epochs of one training, each of which gives a teacher of its own, `<label>_e<epoch>`; off: one teacher.",
    )
    batch_size: Batch = Field(description="Images per batch.", json_schema_extra=unit("images"))
    seed: Seed = Field(description="Seed of the weights and the order of images.")

    @property
    def trained_epochs(self) -> int:
        """Epochs after which the weights are kept."""
        return self.keep_epoch or self.epochs

    @model_validator(mode="after")
    def _kept_epochs_are_trained(self) -> Squeeze:
        kept = self.keep_epochs or []
        if self.keep_epoch and kept:
            raise ValueError(f"keep_epochs: expected off with keep_epoch ({self.keep_epoch}), got {kept}; set either to null")
        if any(b <= a for a, b in pairwise(kept)):
            raise ValueError(f"keep_epochs: expected each above the one before, got {kept}; put them in order")
        for name, last in (("keep_epoch", self.keep_epoch), ("keep_epochs", kept[-1] if kept else None)):
            if last and last > self.epochs:
                raise ValueError(f"{name}: expected at most epochs ({self.epochs}), got {last}; lower it")
        return self


class StatisticsPass(Compute):
    """One pass over the augmented training set."""

    patch_size: Annotated[int, Field(ge=1, le=64)] = Field(
        description="Side of the patches whose moments are measured.", json_schema_extra=unit("px")
    )
    batch_size: Batch = Field(description="Images per batch.", json_schema_extra=unit("images"))
    variance: Literal["mean_of_batches", "pooled"] = Field(
        description="Variance of all images, or the mean of the batches'. published: `mean_of_batches`; corrected: `pooled`."
    )
    seed: Seed = Field(description="Seed of the augmentation and the order of images.")


class Statistics(StatisticsPass):
    """The pass, and through which teacher."""

    measured_in: Literal["twin", "own"] = Field(
        description="The teacher itself, or a twin trained from another seed. published: `twin`; corrected: `own`."
    )
