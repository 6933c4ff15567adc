"""check: what a run would fail at later, found before anything is trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import Field

from gvbsm.config.bounds import Count
from gvbsm.config.images import LayerKinds
from gvbsm.config.messages import Place, Source
from gvbsm.config.origins import written_at
from gvbsm.config.row import Backbone, Network, Row, Weights
from gvbsm.config.shapes import NetworkShape, PixelForm
from gvbsm.config.sources import DataPath
from gvbsm.pipeline.stage import Artifact, Stage, builders_of, network_shape, paths_of, pixel_form, planned, prefix
from gvbsm.store.spec import Inputs, Spec, Strict

_ENOUGH = 2  # images of a trial: what fails with more of them fails with two


class CheckInputs(Inputs):
    """The data set."""

    data: str


class Trial(Strict):
    """A network that is tried, and the images it is trained with together: at most two; None if it is not trained."""

    network: NetworkShape
    trained_with: Annotated[Count, Field(le=_ENOUGH)] | None
    written: str  # the file and the entry that name it first


class Matched(Strict):
    """A teacher, and the kinds of layers that recover matches in it."""

    network: NetworkShape
    layers: LayerKinds
    written: str  # the file and the setting of the kinds
    teacher: str  # its label


class Given(Strict):
    """A file or folder that others made, and the artifacts made from it: once they are there, it may be gone."""

    written: str
    artifacts: Annotated[list[str], Field(min_length=1)]  # relative to the store


class GivenWeights(Given):
    """Weights of a network."""

    network: NetworkShape
    weights: Weights
    pixels: PixelForm


class GivenFiles(Given):
    """Distilled images or labels, below the data root."""

    path: DataPath


class CheckSpec(Spec):
    """The networks of a run, what others give to it, and the training images that it needs of every class."""

    suffix = ".csv"

    stage: Literal["check"] = "check"
    inputs: CheckInputs
    trials: list[Trial]
    matched: list[Matched]
    weights: list[GivenWeights]
    files: list[GivenFiles]
    candidates: Count | None  # images of a class from which select chooses
    random_images: Count | None  # images of a class for the random baselines


def plan_check(
    row: Row,
    ipc: int,
    data: Artifact,
    origin: Mapping[Place, Source],
    networks: Sequence[tuple[Backbone, Artifact]],
    images: list[Artifact],
    labels: list[Artifact],
) -> Artifact:
    """What is checked before a run: `networks` are its teachers and its judge, each with its artifact; `origin` are the
    sources of the row's settings, for messages."""
    selects = row.select if not row.distilled else None
    return planned(
        CheckSpec,
        prefix(row),
        builders_of([*(network for network, _ in networks), *row.evaluate.students]),
        inputs=CheckInputs(data=data.path),
        trials=_trials(row, ipc, origin),
        matched=_matched(row, origin),
        weights=[
            GivenWeights(
                written=_written(row, network, origin),
                artifacts=[artifact.path],
                network=network_shape(row, network),
                weights=network.weights,
                pixels=pixel_form(row),
            )
            for network, artifact in networks
            if network.weights
        ],
        files=_files(row, origin, images, labels),
        candidates=ipc * selects.cells**2 * selects.candidates if selects else None,
        random_images=ipc if any(kind.startswith("random") for kind in row.evaluate.baselines) else None,
    )


def _trials(row: Row, ipc: int, origin: Mapping[Place, Source]) -> list[Trial]:
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
        trial = Trial(network=shape, trained_with=trained_with, written=_written(row, network, origin))
        trials.setdefault(f"{shape} {trained_with}", trial)
    return list(trials.values())


def _matched(row: Row, origin: Mapping[Place, Source]) -> list[Matched]:
    if row.distilled or not (row.recover.iterations and row.recover.statistics_weight):
        return []
    written = written_at(origin, "recover", "layers")
    return [
        Matched(network=network_shape(row, teacher), layers=row.recover.layers, written=written, teacher=teacher.label)
        for teacher in row.backbones
    ]


def _files(row: Row, origin: Mapping[Place, Source], images: list[Artifact], labels: list[Artifact]) -> list[GivenFiles]:
    if not row.distilled:
        return []
    paths = {"images": (row.distilled.images, images), "labels": (row.distilled.labels, labels)}
    return [
        GivenFiles(written=written_at(origin, "distilled", name), artifacts=paths_of(artifacts), path=path)
        for name, (path, artifacts) in paths.items()
        if path
    ]


def _written(row: Row, network: Network, origin: Mapping[Place, Source]) -> str:
    """The file and the entry of a network."""
    if network is row.judge:
        return written_at(origin, "judge")
    place = ("backbones",) if isinstance(network, Backbone) else ("evaluate", "students")
    return f"{written_at(origin, *place)}: {network.label}"


STAGE = Stage(
    name="check",
    about="try every network of a run, look for the files it is given, and count the images it needs",
    spec=CheckSpec,
    checkpoints=lambda spec: False,
    images=lambda spec, scale: 0,  # of the data set
)
