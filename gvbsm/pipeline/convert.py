"""convert: published soft labels of distilled images by others, one range of epochs per job."""

from __future__ import annotations

from typing import Literal

from gvbsm.config.labels import Coding
from gvbsm.config.row import Row
from gvbsm.config.shapes import Span
from gvbsm.config.sources import DataPath, Distilled, Seed
from gvbsm.pipeline.relabel import bytes_per_view
from gvbsm.pipeline.scale import Scale, times
from gvbsm.pipeline.shards import epoch_ranges
from gvbsm.pipeline.stage import Artifact, Stage, planned, prefix
from gvbsm.store.spec import Inputs, Spec

_BYTES_OF_VIEW = 29  # the parameters of a view, stored beside its label


class ConvertInputs(Inputs):
    """The adopted images."""

    images: str


class ConvertSpec(Spec):
    """The published labels of a range of epochs."""

    stage: Literal["convert"] = "convert"
    inputs: ConvertInputs
    path: DataPath
    version: int | None = None
    seed: Seed
    epochs: Span
    coding: Coding


def plan_convert(row: Row, distilled: Distilled, images: Artifact) -> list[Artifact]:
    """The labels that a recipe takes over."""
    return [
        planned(
            ConvertSpec,
            f"{prefix(row)}-epoch{epochs[0]:05d}",
            inputs=ConvertInputs(images=images.path),
            path=distilled.labels,
            version=distilled.version,
            seed=distilled.seed,
            epochs=epochs,
            coding=row.relabel.coding,
        )
        for epochs in epoch_ranges(row.labelled_epochs, row.relabel)
    ]


def _images(spec: ConvertSpec, scale: Scale) -> int | None:
    first, end = spec.epochs
    return times(scale.distilled_images, end - first)


def _bytes(spec: ConvertSpec, scale: Scale) -> int | None:
    return times(_images(spec, scale), bytes_per_view(spec.coding, scale.classes) + _BYTES_OF_VIEW)


STAGE = Stage(
    name="convert",
    about="convert published soft labels of a range of epochs",
    spec=ConvertSpec,
    sharded=True,
    images=_images,
    bytes=_bytes,
)
