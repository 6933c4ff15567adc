"""Common to all stages: the `Stage` record, the planned `Artifact`, and helpers that build specs from a row."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, TypeVar

from pydantic import BaseModel

from gvbsm.config import networks
from gvbsm.config.row import Network, Row
from gvbsm.config.shapes import Batch, NetworkShape, PixelForm
from gvbsm.config.sources import ImageFolder
from gvbsm.pipeline.scale import Scale
from gvbsm.store.code import fingerprint
from gvbsm.store.spec import Spec

S = TypeVar("S", bound=Spec)
Part = TypeVar("Part", bound=BaseModel)


@dataclass(frozen=True)
class Artifact:
    """One file of the store: its name, and the spec that decides its bytes."""

    name: str
    spec: Spec

    @property
    def stage(self) -> str:
        """The stage that makes it."""
        return self.spec.stage

    @property
    def key(self) -> str:
        """10 hexadecimal digits."""
        return self.spec.key

    @property
    def path(self) -> str:
        """Relative to the store."""
        return f"{self.stage}/{self.name}-{self.key}{self.spec.suffix}"


@dataclass(frozen=True)
class Stage:
    """Everything the rest of the program needs to know of a stage. `gvbsm.pipeline.registry.STAGES` lists them."""

    name: str
    about: str  # one line for `gvbsm --help`
    spec: type[Spec]
    spec_for: Callable[[Mapping[str, Any]], type[Spec]] | None = None  # the type for a spec's JSON, if the stage has several
    stored: bool = True  # its artifact is in the store; otherwise beside acc.json
    checkpoints: Callable[[Spec], bool] = lambda spec: True  # whether a signal makes the job save its state and stop
    shared: bool = False  # several processes, each on a GPU, may train together
    ahead: bool = False  # a job can do the work of waiting jobs that read the same images, into their checkpoints
    in_turn: bool = False  # each step of a job takes one of its teachers; otherwise every image passes through all
    sharded: bool = False  # a run has several jobs of it, each named after its part
    images: Callable[[Any, Scale], int | None] = lambda spec, scale: None  # processed by a job, as its receipt counts
    bytes: Callable[[Any, Scale], int | None] = lambda spec, scale: None  # of its tensors, without the 1 kB header
    bytes_as_before: bool = True  # whether artifacts of similar jobs have the same size
    origin: str | None = None  # origin of the distilled images that it makes, for the card of an export

    @property
    def suffix(self) -> str:
        """The suffix of its artifact's file name."""
        return self.spec.suffix

    def spec_type(self, raw: Mapping[str, Any]) -> type[Spec]:
        """The type of a spec, given its JSON."""
        return self.spec_for(raw) if self.spec_for else self.spec


def planned(spec: type[S], name: str, builders: Iterable[str] = (), **fields: Any) -> Artifact:
    """An artifact whose spec includes the hashes of the code of its stage and of the networks' `builders`."""
    stage = spec.model_fields["stage"].default
    return Artifact(name, spec(**fields, code=fingerprint(stage, tuple(builders))))


def part(model: type[Part], settings: BaseModel, **others: Any) -> Part:
    """A `model` with the values of `settings`, and of `others` for fields that differ or that `settings` lacks.

    It has only the settings that decide a job's bytes: not, for example, the sizes of shards. Values are not checked again.
    """
    return model.model_construct(**{name: getattr(settings, name, None) for name in model.model_fields} | others)


def prefix(row: Row) -> str:
    """The prefix of the names of a row's artifacts; rows of the same source share artifacts."""
    if isinstance(row.source, ImageFolder):
        return re.sub(r"[^A-Za-z0-9_.]+", "_", PurePath(row.source.path).name) or row.source.kind
    return row.source.kind


def builders_of(used: Iterable[Network]) -> tuple[str, ...]:
    """The builder of each network, as "module:function"."""
    return tuple(sorted({networks.builder(network.name) for network in used}))


def network_shape(row: Row, network: Network) -> NetworkShape:
    """A network of a row."""
    return NetworkShape(
        name=network.name,
        options=network.options,
        classes=row.classes,
        image_size=row.image_size,
        channels=len(row.mean),
    )


def pixel_form(row: Row) -> PixelForm:
    """The form of a row's images."""
    return PixelForm(image_size=row.image_size, mean=row.mean, std=row.std)


def paths_of(artifacts: Iterable[Artifact]) -> list[str]:
    """The paths of artifacts, relative to the store."""
    return [artifact.path for artifact in artifacts]


def count_images(batches: Iterable[Batch]) -> int:
    """The number of images in batches."""
    return sum(end - first for batch in batches for _, first, end in batch)
