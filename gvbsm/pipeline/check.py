"""check: what a run would fail at later, found before anything is trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

from pydantic import Field

from gvbsm.config.bounds import Count
from gvbsm.config.images import LayerKinds
from gvbsm.config.row import Backbone, Network, Row, Weights
from gvbsm.config.shapes import NetworkShape, PixelForm
from gvbsm.config.sources import DataPath
from gvbsm.pipeline.stage import Artifact, Stage, builders_of, network_shape, paths_of, pixel_form, planned, prefix
from gvbsm.store.spec import Inputs, Spec, Strict

_ENOUGH = 2  # images of a trial: what fails with more of them fails with two
Section = Literal["backbones", "judge", "evaluate.students"]  # of a row, where a network is named


class CheckInputs(Inputs):
    """The data set."""

    data: str


class Trial(Strict):
    """A network that is tried, and the images it is trained with together: at most two; None if it is not trained."""

    network: NetworkShape
    trained_with: Annotated[Count, Field(le=_ENOUGH)] | None
    section: Section  # the first that names it


class Matched(Strict):
    """Teachers, and the kinds of layers that recover matches in them."""

    teachers: list[NetworkShape]
    layers: LayerKinds


class Given(Strict):
    """A file or folder that others made, and the artifacts made from it: once they are there, it may be gone."""

    artifacts: Annotated[list[str], Field(min_length=1)]  # relative to the store


class GivenWeights(Given):
    """Weights of a network."""

    network: NetworkShape
    weights: Weights
    pixels: PixelForm
    section: Section


class GivenFiles(Given):
    """Distilled images or labels, below the data root."""

    path: DataPath
    setting: Literal["distilled.images", "distilled.labels"]


class CheckSpec(Spec):
    """The networks of a run, what others give to it, and the training images that it needs of every class."""

    suffix = ".csv"

    stage: Literal["check"] = "check"
    inputs: CheckInputs
    trials: list[Trial]
    matched: Matched | None
    weights: list[GivenWeights] | None
    files: list[GivenFiles] | None
    candidates: Count | None  # images of a class from which select chooses
    random_images: Count | None  # images of a class for the random baselines


def plan_check(
    row: Row,
    ipc: int,
    data: Artifact,
    networks: Sequence[tuple[Backbone, Artifact]],
    images: list[Artifact],
    labels: list[Artifact],
) -> Artifact:
    """What is checked before a run: `networks` are its teachers and its judge, each with its artifact."""
    selects = row.select if not row.distilled else None
    return planned(
        CheckSpec,
        prefix(row),
        builders_of([*(network for network, _ in networks), *row.evaluate.students]),
        inputs=CheckInputs(data=data.path),
        trials=_trials(row, ipc),
        matched=_matched(row),
        weights=[*_weights(row, networks)] or None,
        files=[*_files(row, images, labels)] or None,
        candidates=ipc * selects.cells**2 * selects.candidates if selects else None,
        random_images=ipc if any(kind.startswith("random") for kind in row.evaluate.baselines) else None,
    )


def _trials(row: Row, ipc: int) -> list[Trial]:
    """Every network once, as large as the row makes it."""
    batches: list[tuple[Network, int | None]] = [
        (teacher, None if teacher.weights else teacher.squeeze.batch_size)
        for teacher in [*row.backbones, *([row.judge] if row.judge else [])]
    ]
    for student in row.evaluate.students:
        batch = min(student.evaluate.batch_size or row.relabel.batch_size, ipc * row.classes)
        batches.append((student, -(-batch // student.evaluate.accumulate)))  # the size of a part of a batch
    trials: dict[str, Trial] = {}
    for network, size in batches:
        shape, trained_with = network_shape(row, network), size and min(size, _ENOUGH)
        trial = Trial(network=shape, trained_with=trained_with, section=_section(row, network))
        trials.setdefault(f"{shape} {trained_with}", trial)
    return list(trials.values())


def _section(row: Row, network: Network) -> Section:
    if network is row.judge:
        return "judge"
    return "backbones" if isinstance(network, Backbone) else "evaluate.students"


def _matched(row: Row) -> Matched | None:
    if row.distilled or not (row.recover.iterations and row.recover.statistics_weight):
        return None
    return Matched(teachers=[network_shape(row, teacher) for teacher in row.backbones], layers=row.recover.layers)


def _weights(row: Row, networks: Sequence[tuple[Backbone, Artifact]]) -> Iterable[GivenWeights]:
    for network, artifact in networks:
        if network.weights:
            yield GivenWeights(
                artifacts=[artifact.path],
                network=network_shape(row, network),
                weights=network.weights,
                pixels=pixel_form(row),
                section=_section(row, network),
            )


def _files(row: Row, images: list[Artifact], labels: list[Artifact]) -> Iterable[GivenFiles]:
    if row.distilled:
        yield GivenFiles(artifacts=paths_of(images), path=row.distilled.images, setting="distilled.images")
    if row.distilled and row.distilled.labels:
        yield GivenFiles(artifacts=paths_of(labels), path=row.distilled.labels, setting="distilled.labels")


STAGE = Stage(
    name="check",
    about="try every network of a run, look for the files it is given, and count the images it needs",
    spec=CheckSpec,
    checkpoints=lambda spec: False,
    images=lambda spec, scale: 0,  # of the data set
)
