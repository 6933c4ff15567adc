"""What the spec of each stage holds, as types."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, create_model

from gvbsm.settings import Weights
from gvbsm.sources import DataPath, Seed, Source, Strict
from gvbsm.stage_settings import (
    Augment,
    Coding,
    Compute,
    Count,
    Epochs,
    PerChannel,
    Precision,
    RecoverShard,
    RelabelShard,
    Select,
    Squeeze,
    StatisticsPass,
    TeachersLabels,
    Training,
    ViewsOfImages,
)

Paths = Annotated[list[str], Field(min_length=1)]


class NetworkSpec(Strict):
    """A network by name, and the shapes it maps."""

    name: str
    options: dict[str, bool | int | float | str]
    classes: Count
    image_size: Count
    channels: Count


class PixelsSpec(Strict):
    """Size and normalisation of images."""

    image_size: Count
    mean: PerChannel
    std: PerChannel


class RandomImages(Strict):
    """Which random real images are taken."""

    ipc: Count
    seed: Seed


class RealImages(Strict):
    """How many random real images of every class, if it has them, and which."""

    per_class: Count
    seed: Seed


class Snapshots(Strict):
    """Before which iterations the first image of which classes is kept."""

    iterations: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    labels: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class LabelledViews(ViewsOfImages):
    """The views of hard-label training."""

    epochs: Epochs


class _Images(Strict):
    """One image set: shards of distilled images, or the data set that random ones are drawn from."""

    data: str | None = None
    images: list[str] | None = None


class _RecoverInputs(Strict):
    teachers: Paths
    statistics: list[str]  # none, if they have no weight
    start: str | None = None  # select's images; none: noise


class MoreStatistics(StatisticsPass):
    """The pass, and what else it measures if asked to."""

    by_class: bool | None = None
    importance: bool | None = None


class _RelabelInputs(_Images):
    teachers: Paths


class _EvaluateInputs(Strict):
    data: str
    images: list[str]
    labels: list[str]
    teachers: list[str] | None = None


class _PublishInputs(Strict):
    data: str
    teachers: dict[str, str]
    statistics: list[str]  # none, if images are not recovered, or without them
    selected: list[str] | None = None  # the real images that recover began with
    images: Paths
    labels: list[str]  # none, if they are made online
    random_labels: list[str]  # none, if they are not asked for or made online
    students: dict[str, dict[str, str]]


class DrawInputs(Strict):
    """The data set, and what each picture shows of a run."""

    data: str
    students: dict[str, dict[str, str]] | None = None  # curves: evaluate's tables by student and kind
    networks: dict[str, str] | None = None  # classes, features: what the networks of these names see
    images: Paths | None = None  # evolution: shards with snapshots


class Embedding(Strict):
    """t-SNE."""

    perplexity: Annotated[float, Field(ge=1)]
    seed: Seed


def _inputs(name: str, **fields: Any) -> type[BaseModel]:
    required: dict[str, Any] = {field: (kind, ...) for field, kind in fields.items()}
    return create_model(name, __base__=Strict, **required)


_DATA = _inputs("Inputs", data=str)
_EPOCHS = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]  # first, end
_BATCHES = Annotated[list[list[Annotated[list[int], Field(min_length=3, max_length=3)]]], Field(min_length=1)]
_STUDENT: dict[str, Any] = {
    "inputs": _EvaluateInputs,
    "random": RandomImages | None,
    "views": LabelledViews | None,
    "online": TeachersLabels | None,
    "network": NetworkSpec,
    "pixels": PixelsSpec,
    "settings": Training,  # or HardTraining, with neither labels nor teachers
}
STAGES: dict[str, dict[str, Any]] = {
    "prepare": {
        "source": Source,
        "classes": Count,
        "image_size": Count,
        "channels": Count,
        "resize": Count,
        "storage": Literal["packed", "files"],
    },
    "squeeze": {
        "inputs": _DATA,
        "network": NetworkSpec,
        "pixels": PixelsSpec,
        "weights": Weights | None,
        "augment": Augment | None,
        "settings": Squeeze,  # or Compute, with weights
    },
    "statistics": {
        "inputs": _inputs("Inputs", data=str, teacher=str),
        "pixels": PixelsSpec,
        "augment": Augment,
        "settings": MoreStatistics,
    },
    "select": {
        "inputs": _inputs("Inputs", data=str, teachers=list[str]),  # none, if they have no say
        "batches": _BATCHES,
        "pixels": PixelsSpec,
        "settings": Select,
    },
    "recover": {
        "inputs": _RecoverInputs,
        "batches": _BATCHES,
        "pixels": PixelsSpec,
        "augment": Augment,
        "views": ViewsOfImages | None,  # instead of augment and roll
        "settings": RecoverShard,
        "snapshots": Snapshots | None,
        "precisions": list[Precision] | None,  # one per teacher, where they differ from the settings
    },
    "adopt": {
        "inputs": _DATA,
        "path": DataPath,
        "version": int | None,
        "ipc": Count,
        "image_size": Count,
        "channels": Count,
    },
    "relabel": {
        "inputs": _RelabelInputs,
        "random": RandomImages | None,
        "epochs": _EPOCHS,
        "pixels": PixelsSpec,
        "settings": RelabelShard,
    },
    "convert": {
        "inputs": _inputs("Inputs", images=str),
        "path": DataPath,
        "version": int | None,
        "seed": Seed,
        "epochs": _EPOCHS,
        "coding": Coding,
    },
    "evaluate": _STUDENT | {"seeds": Annotated[list[Seed], Field(min_length=1)]},
    "student": _STUDENT | {"seed": Seed},
    "features": {
        "inputs": _inputs("Inputs", data=str, network=str, images=Paths),
        "real": RealImages,
        "shown": list[Annotated[int, Field(ge=0)]],  # labels whose features are kept
        "pixels": PixelsSpec,
        "settings": Compute,
    },
    "publish": {
        "dataset": str,
        "ipc": Count,
        "recipe": str | None,
        "headline": Literal["best", "last"],
        "inputs": _PublishInputs,
    },
    "draw": {
        "picture": Literal["curves", "classes", "features", "evolution"],
        "dataset": str,
        "ipc": Count,
        "recipe": str | None,
        "inputs": DrawInputs,
        "settings": Embedding | None,  # features alone
    },
}
