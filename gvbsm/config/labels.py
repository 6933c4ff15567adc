"""Settings of soft labels: how views are drawn, and how teachers' logits on them are made and stored."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gvbsm.config.bounds import Batch, Cells, Epochs, Rate, Ratios, Shares, unit
from gvbsm.config.sources import Seed, Strict
from gvbsm.config.steps import Compute


class RandAugment(Strict):
    """Random operations on a view before it is mixed (Cubuk et al. 2020)."""

    operations: Annotated[int, Field(ge=1, le=8)] = Field(description="Operations per view.")
    magnitude: Annotated[int, Field(ge=0, le=30)] = Field(description="Strength of the operations, of 30.")


class ViewsOfImages(Strict):
    """How the views of an image set are drawn."""

    batch_size: Batch = Field(description="Views per batch.", json_schema_extra=unit("views"))
    scale: Shares = Field(description="Smallest and largest share of the area that a view's crop keeps.")
    ratio: Ratios = Field(description="Smallest and largest width / height of the crop.")
    cells: Cells | None = Field(
        default=None,
        description="n: a view is a crop of one of the n x n cells of its image (`select.cells`); off: of the whole.",
    )
    flip: bool = Field(description="Mirror half of the views left to right.")
    rand_augment: RandAugment | None = Field(
        default=None, description="Random operations on a view before it is mixed; off: none."
    )
    mix: Literal["cutmix", "mixup", "none"] = Field(description="How two views are mixed.")
    mix_alpha: Rate = Field(description="Parameter of the Beta distribution of the mix.")
    seed: Seed = Field(description="Seed of the views.")


class Coding(Strict):
    """How logits are stored."""

    values: Literal["float32", "float16", "int8", "int4"] = Field(
        description="Number format of stored logits; integers lie between a view's least and largest. published: `float16`."
    )
    top: Annotated[int, Field(ge=1)] | None = Field(
        default=None,
        description="How many of a view's largest logits are stored, beside mean and mass of the rest; off (published): all.",
    )


class TeachersLabels(Compute):
    """How teachers label a view."""

    mixup_labels: Literal["unmixed", "mixed"] = Field(
        description="With `mix: mixup`, teachers label a view before or after mixing. published: `unmixed`; corrected: `mixed`."
    )
    rescale_logits: bool = Field(description="Scale every teacher's logits to the mean norm.")
    batchnorm: Literal["batch"] | None = Field(
        default=None,
        description="Teachers' BatchNorm has the moments of the views that are labelled together (SRe2L++), or (off) its own.",
    )
    batchnorm_part: Annotated[int, Field(ge=2, le=65_536)] | None = Field(
        default=None,
        description="Views of a batch of which `batchnorm` takes moments (SRe2L++: 8 of 16); off: the whole batch.",
        json_schema_extra=unit("views"),
    )

    @model_validator(mode="after")
    def _parts_belong_to_batchnorm(self) -> TeachersLabels:
        if self.batchnorm_part and not self.batchnorm:
            raise ValueError(
                f"batchnorm_part: expected only with batchnorm: batch, got {self.batchnorm_part}; remove it, or set batchnorm"
            )
        return self


class RelabelShard(ViewsOfImages, TeachersLabels):
    """Views and their stored soft labels."""

    coding: Coding = Field(description="How logits are stored.")

    @model_validator(mode="after")
    def _a_batch_has_moments(self) -> RelabelShard:
        least = self.batchnorm_part or 2
        if self.batchnorm and self.batch_size < least:
            raise ValueError(f"batch_size: expected at least {least} for batchnorm, got {self.batch_size}; raise it")
        return self


class Relabel(RelabelShard):
    """The labels of all epochs, and how they are divided into jobs."""

    epochs: Epochs | None = Field(
        default=None,
        description="Epochs of views and labels, which longer trainings use again; off (published): as many as evaluate has.",
    )
    shard_epochs: Epochs = Field(description="Epochs per job.")
    online: bool = Field(description="Store nothing: the teachers run beside every student, in every step.")
