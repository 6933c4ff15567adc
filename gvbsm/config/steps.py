"""How a stage computes, and the steps of a training: what settings of several stages share.

Types have no defaults but "off", which a setting that may be None is when it is absent. Values are in `config/`. Where the
published code is wrong (docs/deviations.md), the setting is a choice between the published and the corrected behaviour, and its
description names both.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from gvbsm.config.bounds import Fraction, Precision, Rate, Weight
from gvbsm.config.messages import short
from gvbsm.config.sources import Strict


class Compute(Strict):
    """How a stage computes; part of its key, since both can change its bytes."""

    threads: Annotated[int, Field(ge=1, le=256)] = Field(
        description="CPU threads of torch. They change the order of sums, so they are part of the key."
    )
    precision: Precision = Field(
        description="Precision of convolutions and matrix products; a CPU without bfloat16 instructions takes float32 instead."
    )

    def precision_for(self, device: str) -> Precision:
        """The precision on a type of device: "cpu", "cuda", "mps"."""
        return self.precision


class Optimised(Compute):
    """Steps of a training."""

    optimizer: Literal["sgd", "adamw"] = Field(description="Optimizer of the weights.")
    lr: Rate = Field(description="Step size at the start.")
    momentum: Fraction | None = Field(default=None, description="Momentum of `sgd`; off with `adamw`.")
    weight_decay: Weight = Field(description="Weight decay.")
    schedule: Literal["constant", "cosine", "step"] = Field(
        description="Step size over the epochs: constant, a cosine to 0, or constant but for `milestones`."
    )
    milestones: Annotated[list[Annotated[float, Field(gt=0, lt=1)]], Field(min_length=1, max_length=20)] | None = Field(
        default=None,
        description="Shares of `epochs` after which `step` multiplies the step size by `gamma` (EDC's script: .8, .9, .95).",
    )
    gamma: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="Factor of `step` at each of the milestones (EDC's script: .5)."
    )
    cpu_precision: Precision | None = Field(
        default=None, description="Precision on a CPU, for networks that are faster there in another one; off: `precision`."
    )

    def precision_for(self, device: str) -> Precision:
        """The precision on a type of device."""
        return self.cpu_precision if device == "cpu" and self.cpu_precision else self.precision

    @model_validator(mode="after")
    def _momentum_belongs_to_sgd(self) -> Optimised:
        if (self.optimizer == "sgd") != (self.momentum is not None):
            raise ValueError(
                f"momentum: expected exactly when optimizer is sgd, got {short(self.momentum)} with {self.optimizer}; "
                f"set it to {'a number (0: none)' if self.momentum is None else 'null'}"
            )
        return self

    @model_validator(mode="after")
    def _milestones_belong_to_step(self) -> Optimised:
        for name, value in (("milestones", self.milestones), ("gamma", self.gamma)):
            if (self.schedule == "step") != (value is not None):
                remedy = f"{'give' if value is None else 'remove'} {name}"
                raise ValueError(
                    f"{name}: expected exactly with schedule: step, got {short(value)} with {self.schedule}; {remedy}"
                )
        if self.milestones and any(b <= a for a, b in pairwise(self.milestones)):
            raise ValueError(f"milestones: expected each above the one before, got {self.milestones}; put them in order")
        return self
