"""judge: to which classes a network that had no part in a run assigns its images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gvbsm.config.row import Backbone, Row
from gvbsm.config.shapes import PixelForm
from gvbsm.config.steps import Compute
from gvbsm.pipeline.scale import Scale
from gvbsm.pipeline.stage import Artifact, Stage, builders_of, part, paths_of, pixel_form, planned, prefix
from gvbsm.store.spec import Inputs, Spec


class JudgeInputs(Inputs):
    """The network, as squeeze makes teachers, and the distilled images."""

    network: str
    images: Annotated[list[str], Field(min_length=1)]


class JudgeSpec(Spec):
    """What one network says of the images."""

    suffix = ".csv"

    stage: Literal["judge"] = "judge"
    inputs: JudgeInputs
    pixels: PixelForm
    settings: Compute


def plan_judge(row: Row, judge: Backbone, network: Artifact, images: list[Artifact]) -> Artifact:
    """The verdict of a network on the distilled images."""
    return planned(
        JudgeSpec,
        f"{prefix(row)}-{judge.label}",
        builders_of([judge]),
        inputs=JudgeInputs(network=network.path, images=paths_of(images)),
        pixels=pixel_form(row),
        settings=part(Compute, judge.squeeze),
    )


def _images(_spec: JudgeSpec, scale: Scale) -> int | None:
    return scale.distilled_images


STAGE = Stage(
    name="judge",
    about="ask a network that is no teacher for the classes of the distilled images",
    spec=JudgeSpec,
    checkpoints=lambda spec: False,
    images=_images,
)
