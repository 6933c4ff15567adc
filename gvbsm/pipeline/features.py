"""features: what a teacher or a student sees in distilled and in random real images."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gvbsm.config.bounds import Count
from gvbsm.config.row import Network, Row
from gvbsm.config.shapes import PixelForm
from gvbsm.config.sources import Seed
from gvbsm.config.steps import Compute
from gvbsm.pipeline.shards import shown_classes
from gvbsm.pipeline.stage import Artifact, Stage, builders_of, part, pixel_form, planned, prefix
from gvbsm.store.spec import Inputs, Spec, Strict


class FeaturesInputs(Inputs):
    """The data set, the network, and the distilled images."""

    data: str
    network: str
    images: Annotated[list[str], Field(min_length=1)]


class RealImages(Strict):
    """Random real images: `per_class` of every class, or all if it has fewer, drawn with `seed`."""

    per_class: Count
    seed: Seed


class FeaturesSpec(Spec):
    """What one network sees."""

    stage: Literal["features"] = "features"
    inputs: FeaturesInputs
    real: RealImages
    shown: list[Annotated[int, Field(ge=0)]]  # labels of the classes whose features are stored
    pixels: PixelForm
    settings: Compute


def plan_features(row: Row, network: Network, weights: Artifact, data: str, images: list[str], real: RealImages) -> Artifact:
    """What a teacher or a student sees in the shards `images` and in random real images."""
    role = "student" if weights.stage == "student" else "teacher"
    return planned(
        FeaturesSpec,
        f"{prefix(row)}-{role}-{network.label}",
        builders_of([network]),
        inputs=FeaturesInputs(data=data, network=weights.path, images=images),
        real=real,
        shown=shown_classes(row.classes),
        pixels=pixel_form(row),
        settings=part(Compute, row.relabel),
    )


STAGE = Stage(
    name="features",
    about="look at distilled and real images through one network",
    spec=FeaturesSpec,
    checkpoints=lambda spec: False,
)
