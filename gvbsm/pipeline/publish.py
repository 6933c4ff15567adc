"""publish: a run's receipts gathered into acc.json, tables and a picture."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gvbsm.config.bounds import Count
from gvbsm.pipeline.stage import Stage
from gvbsm.store.spec import Inputs, Json, Spec


class PublishInputs(Inputs):
    """Every artifact of a run."""

    data: str
    check: str | None = None  # none in runs published before there was such a stage
    teachers: dict[str, str]  # by label
    twins: list[str] | None = None  # teachers that only serve to measure statistics
    statistics: list[str]  # empty if recover needs none
    selected: list[str] | None = None  # the real images that recover started from
    images: Annotated[list[str], Field(min_length=1)]
    judge: dict[str, str] | None = None  # what it says of the images, by its label
    judge_network: str | None = None
    labels: list[str]  # empty if they are made online
    random_labels: list[str]  # empty without the baseline, or if they are made online
    students: dict[str, dict[str, str]]  # by label and kind of training set


class PublishSpec(Spec):
    """A run."""

    suffix = ".json"

    stage: Literal["publish"] = "publish"
    dataset: str
    ipc: Count
    recipe: str | None = None
    headline: Literal["best", "last"]
    row: Json | None = None  # the row with the recipe laid over it, as the files give them; none in earlier runs
    inputs: PublishInputs


STAGE = Stage(
    name="publish",
    about="gather a run into acc.json, settings.yaml, tables and images.png",
    spec=PublishSpec,
    stored=False,
)
