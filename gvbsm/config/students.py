"""Settings of students: how they are trained on soft labels or on hard ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gvbsm.config.bounds import Batch, Epochs, Weight, unit
from gvbsm.config.steps import Optimised


class HardTraining(Optimised):
    """Training of one student on hard labels."""

    epochs: Epochs = Field(description="Length of the training.")
    batch_size: Batch | None = Field(
        default=None, description="Views per batch; off (published): the batches of relabel.", json_schema_extra=unit("views")
    )
    stretch: Annotated[float, Field(ge=1, le=100)] | None = Field(
        default=None, description="The cosine reaches 0 after this many times `epochs` (EDC: 2); off: 1."
    )
    ema: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="Largest decay of the moving average of weights that is tested; off: the weights themselves are tested.",
    )
    accumulate: Annotated[int, Field(ge=1, le=1024)] = Field(
        description="Parts of a batch, to save memory; BatchNorm sees one part. A short last batch has fewer."
    )
    hard_label: Literal["unmixed", "mixed"] = Field(
        description="Hard label of a mixed view. published: `unmixed`; corrected: `mixed`."
    )
    test_every: Epochs = Field(description="Epochs between tests; the last epoch is always tested.")

    @model_validator(mode="after")
    def _stretch_belongs_to_cosine(self) -> HardTraining:
        if self.stretch and self.schedule != "cosine":
            raise ValueError(f"stretch: expected only with schedule: cosine, got schedule: {self.schedule}; set it to null")
        return self


class Training(HardTraining):
    """Training of one student on soft labels."""

    loss: Literal["mse", "kl", "dist", "gift"] = Field(description="Loss against soft labels.")
    temperature: Annotated[float, Field(gt=0, le=1000)] | None = Field(
        default=None, description="Temperature of `kl`; off with other losses."
    )
    hard_weight: Weight = Field(description="Weight gamma of the cross-entropy against hard labels.")

    @model_validator(mode="after")
    def _temperature_belongs_to_kl(self) -> Training:
        if (self.loss == "kl") != (self.temperature is not None):
            raise ValueError("temperature: expected exactly when loss is kl; add or remove it")
        return self
