"""select: the real images that recover starts from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gvbsm.config.images import Select
from gvbsm.config.row import Row
from gvbsm.config.shapes import Batch, PixelForm
from gvbsm.pipeline.scale import Scale
from gvbsm.pipeline.shards import row_shards
from gvbsm.pipeline.stage import Artifact, Stage, builders_of, count_images, paths_of, pixel_form, planned
from gvbsm.store.spec import Inputs, Spec


class SelectInputs(Inputs):
    """The data set, and the teachers if the choice depends on them."""

    data: str
    teachers: list[str]


class SelectSpec(Spec):
    """The real images that one shard starts from."""

    stage: Literal["select"] = "select"
    inputs: SelectInputs
    batches: Annotated[list[Batch], Field(min_length=1)]
    pixels: PixelForm
    settings: Select


def plan_select(row: Row, settings: Select, ipc: int, data: Artifact, teachers: list[Artifact]) -> list[Artifact]:
    """The real images that each shard of a row starts from."""
    needs_teachers = settings.choose != "random" or settings.crops > 1
    inputs = SelectInputs(data=data.path, teachers=paths_of(teachers if needs_teachers else []))
    builders = builders_of(row.backbones if needs_teachers else [])
    pixels = pixel_form(row)
    return [
        planned(SelectSpec, name, builders, inputs=inputs, batches=batches, pixels=pixels, settings=settings)
        for name, batches in row_shards(row, ipc)
    ]


def _images(spec: SelectSpec, _scale: Scale) -> int:
    return count_images(spec.batches) * spec.settings.cells**2 * spec.settings.candidates


def _bytes(spec: SelectSpec, _scale: Scale) -> int:
    image = len(spec.pixels.mean) * spec.pixels.image_size**2
    sources, label_and_number = 8 * spec.settings.cells**2, 16
    return count_images(spec.batches) * (image + sources + label_and_number)


STAGE = Stage(
    name="select",
    about="choose real images that a shard starts from",
    spec=SelectSpec,
    sharded=True,
    images=_images,
    bytes=_bytes,
    origin="real images of the source or crops of them, chosen by gvbsm",
)
