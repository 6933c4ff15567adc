"""check: what a run would fail at later, found before anything is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gvbsm.config.bounds import Count
from gvbsm.config.row import Network, Row
from gvbsm.config.shapes import NetworkShape
from gvbsm.pipeline.stage import Artifact, Stage, builders_of, network_shape, planned, prefix
from gvbsm.store.spec import Inputs, Spec, Strict

_ENOUGH = 2  # images of a trial: what fails with more of them fails with two


class CheckInputs(Inputs):
    """The data set."""

    data: str


class Trial(Strict):
    """A network that is tried, and the images it is trained with together: at most two; None if it is not trained."""

    network: NetworkShape
    trained_with: Annotated[Count, Field(le=_ENOUGH)] | None


class CheckSpec(Spec):
    """The networks of a run, and the training images that it needs of every class."""

    suffix = ".csv"

    stage: Literal["check"] = "check"
    inputs: CheckInputs
    trials: list[Trial]
    candidates: Count | None  # images of a class from which select chooses
    random_images: Count | None  # images of a class for the random baselines


def plan_check(row: Row, ipc: int, data: Artifact) -> Artifact:
    """What is checked before a run."""
    trials = [_trial(row, backbone, None if backbone.weights else backbone.squeeze.batch_size) for backbone in row.backbones]
    if row.judge:
        trials.append(_trial(row, row.judge, None if row.judge.weights else row.judge.squeeze.batch_size))
    for student in row.evaluate.students:
        batch = min(student.evaluate.batch_size or row.relabel.batch_size, ipc * row.classes)
        trials.append(_trial(row, student, -(-batch // student.evaluate.accumulate)))  # the size of a part of a batch
    selects = row.select if not row.distilled else None
    return planned(
        CheckSpec,
        prefix(row),
        builders_of([*row.backbones, *([row.judge] if row.judge else []), *row.evaluate.students]),
        inputs=CheckInputs(data=data.path),
        trials=[trial for i, trial in enumerate(trials) if trial not in trials[:i]],
        candidates=ipc * selects.cells**2 * selects.candidates if selects else None,
        random_images=ipc if any(kind.startswith("random") for kind in row.evaluate.baselines) else None,
    )


def _trial(row: Row, network: Network, batch_size: int | None) -> Trial:
    return Trial(network=network_shape(row, network), trained_with=batch_size and min(batch_size, _ENOUGH))


STAGE = Stage(
    name="check",
    about="try every network of a run, and count the images it needs",
    spec=CheckSpec,
    checkpoints=lambda spec: False,
    images=lambda spec, scale: 0,  # of the data set
)
