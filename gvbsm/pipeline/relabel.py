"""relabel: the teachers' soft labels of views, one range of epochs per job."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gvbsm.config.labels import Coding, Relabel, RelabelShard
from gvbsm.config.row import Row
from gvbsm.config.shapes import PixelForm, RandomImages, Span
from gvbsm.pipeline.scale import Scale, times
from gvbsm.pipeline.shards import epoch_ranges
from gvbsm.pipeline.stage import Artifact, Stage, builders_of, part, paths_of, pixel_form, planned, prefix
from gvbsm.store.spec import Inputs, Spec


class RelabelInputs(Inputs):
    """Teachers, and shards of distilled images or the data set from which random images are drawn."""

    teachers: Annotated[list[str], Field(min_length=1)]
    data: str | None = None
    images: list[str] | None = None


class RelabelSpec(Spec):
    """The soft labels of a range of epochs."""

    stage: Literal["relabel"] = "relabel"
    inputs: RelabelInputs
    random: RandomImages | None = None
    epochs: Span
    pixels: PixelForm
    settings: RelabelShard

    @model_validator(mode="after")
    def _one_set_of_images(self) -> RelabelSpec:
        check_one_of("inputs.images", self.inputs.images, "random", self.random)
        return self


def check_one_of(first: str, first_value: object, second: str, second_value: object) -> None:
    """Raise ValueError unless exactly one of two entries of a spec has a value."""
    if bool(first_value) == bool(second_value):
        raise ValueError(f"expected one of {first} and {second}, got {'both' if first_value else 'none'}; correct the spec")


def views_of(row: Row, random: RandomImages | None) -> Relabel:
    """How views are drawn. Real images are not made of cells: their views are crops of the whole image."""
    return row.relabel.model_copy(update={"cells": None}) if random else row.relabel


def plan_relabel(
    row: Row,
    teachers: list[Artifact],
    images: list[Artifact] | None,
    random: RandomImages | None,
    data: Artifact,
) -> list[Artifact]:
    """Labels of the shards of `images`, or of random images of the data set."""
    inputs = RelabelInputs(
        teachers=paths_of(teachers), data=data.path if random else None, images=None if images is None else paths_of(images)
    )
    settings, builders = part(RelabelShard, views_of(row, random)), builders_of(row.backbones)
    which = "random" if random else "distilled"
    return [
        planned(
            RelabelSpec,
            f"{prefix(row)}-{which}-epoch{epochs[0]:05d}",
            builders,
            inputs=inputs,
            random=random,
            epochs=epochs,
            pixels=pixel_form(row),
            settings=settings,
        )
        for epochs in epoch_ranges(row.labelled_epochs, row.relabel)
    ]


def bytes_per_view(coding: Coding, classes: int) -> int:
    """Bytes of a view's coded logits (docs/soft-labels.md)."""
    logits = classes if coding.top is None else min(coding.top, classes)
    values = {"float32": 4 * logits, "float16": 2 * logits, "int8": logits, "int4": -(-logits // 2)}[coding.values]
    low_and_step = 4 if coding.values in ("int8", "int4") else 0
    if logits == classes:
        return values + low_and_step
    index = 1 if classes <= 2**8 else 2 if classes <= 2**15 else 4
    mean_and_mass = 4
    return values + low_and_step + index * logits + mean_and_mass


def _images(spec: RelabelSpec, scale: Scale) -> int | None:
    first, end = spec.epochs
    return times(scale.distilled_images, end - first)


def _bytes(spec: RelabelSpec, scale: Scale) -> int | None:
    return times(_images(spec, scale), bytes_per_view(spec.settings.coding, scale.classes))


STAGE = Stage(
    name="relabel",
    about="store the teachers' soft labels of a range of epochs",
    spec=RelabelSpec,
    sharded=True,
    images=_images,
    bytes=_bytes,
)
