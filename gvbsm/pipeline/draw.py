"""draw: one picture of a run."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gvbsm.config.bounds import Count
from gvbsm.config.sources import Seed
from gvbsm.pipeline.stage import Stage
from gvbsm.store.run import Picture
from gvbsm.store.spec import Inputs, Spec, Strict


class DrawInputs(Inputs):
    """The data set, and the artifacts of a run that the picture shows."""

    data: str
    students: dict[str, dict[str, str]] | None = None  # curves: evaluate's tables by student and kind
    networks: dict[str, str] | None = None  # classes, features: artifacts of the stage features, by name of the network
    images: Annotated[list[str], Field(min_length=1)] | None = None  # evolution: shards with snapshots


class Embedding(Strict):
    """Settings of t-SNE."""

    perplexity: Annotated[float, Field(ge=1)]
    seed: Seed


class DrawSpec(Spec):
    """A picture."""

    suffix = ".json"

    stage: Literal["draw"] = "draw"
    picture: Picture
    dataset: str
    ipc: Count
    recipe: str | None = None
    inputs: DrawInputs
    settings: Embedding | None = None  # of the picture features only


STAGE = Stage(name="draw", about="draw one picture of a run as PNG, SVG and PDF", spec=DrawSpec, stored=False)
