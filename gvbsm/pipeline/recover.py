"""recover: the synthetic images, optimised shard by shard."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gvbsm.config.bounds import Precision
from gvbsm.config.images import RecoverShard
from gvbsm.config.labels import ViewsOfImages
from gvbsm.config.row import Row
from gvbsm.config.shapes import Batch, PixelForm
from gvbsm.config.teachers import Augment
from gvbsm.method.rounds import image_steps
from gvbsm.pipeline.scale import Scale
from gvbsm.pipeline.shards import row_shards, shown_classes
from gvbsm.pipeline.stage import Artifact, Stage, builders_of, count_images, part, paths_of, pixel_form, planned
from gvbsm.store.spec import Inputs, Spec, Strict


class RecoverInputs(Inputs):
    """Teachers, their statistics, and the images to start from."""

    teachers: Annotated[list[str], Field(min_length=1)]
    statistics: list[str]  # empty if the settings need none
    start: str | None = None  # select's images; None: noise


class Snapshots(Strict):
    """The first image of each of these classes is saved before each of these iterations."""

    iterations: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    labels: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]


class RecoverSpec(Spec):
    """One shard of synthetic images."""

    stage: Literal["recover"] = "recover"
    inputs: RecoverInputs
    batches: Annotated[list[Batch], Field(min_length=1)]
    pixels: PixelForm
    augment: Augment
    views: ViewsOfImages | None = None  # instead of augment and roll
    settings: RecoverShard
    snapshots: Snapshots | None = None
    cpu_precisions: list[Precision] | None = None  # on a CPU, one per teacher, where they differ from the settings

    @model_validator(mode="after")
    def _one_of_each_per_teacher(self) -> RecoverSpec:
        teachers, statistics, settings = len(self.inputs.teachers), len(self.inputs.statistics), self.settings
        if self.cpu_precisions and len(self.cpu_precisions) != teachers:
            expected = f"expected one per teacher ({teachers}), got {len(self.cpu_precisions)}"
            raise ValueError(f"cpu_precisions: {expected}; correct the spec")
        needed = teachers if settings.needs_statistics else 0
        if statistics != needed:
            raise ValueError(
                f"inputs.statistics: expected {needed} of {teachers} teachers at a statistics_weight of "
                f"{settings.statistics_weight:g} with layers {', '.join(settings.layers)}, got {statistics}; correct the spec"
            )
        return self

    def precisions(self, device: str) -> list[str]:
        """The precision asked for with each teacher on a kind of device."""
        on_cpu = self.cpu_precisions if device == "cpu" else None
        return [*(on_cpu or [self.settings.precision] * len(self.inputs.teachers))]


def plan_recover(
    row: Row, ipc: int, teachers: list[Artifact], statistics: list[Artifact], start: list[Artifact]
) -> list[Artifact]:
    """One job per shard of a row, which starts from noise or from selected real images (`start`, one artifact per shard)."""
    settings = row.recover
    # Operations of RandAugment have no gradient to pixels.
    views = part(ViewsOfImages, row.relabel, seed=settings.seed, rand_augment=None) if settings.views else None
    own = [backbone.recover.cpu_precision if backbone.recover else settings.precision for backbone in row.backbones]
    shards = row_shards(row, ipc)
    starts = [images.path for images in start] if start else [None] * len(shards)
    shard_settings, builders = part(RecoverShard, settings), builders_of(row.backbones)
    return [
        planned(
            RecoverSpec,
            name,
            builders,
            inputs=RecoverInputs(teachers=paths_of(teachers), statistics=paths_of(statistics), start=begin),
            batches=batches,
            pixels=pixel_form(row),
            augment=row.augment,
            views=views,
            settings=shard_settings,
            snapshots=_snapshots(row, batches),
            cpu_precisions=None if set(own) == {settings.precision} else own,
        )
        for (name, batches), begin in zip(shards, starts, strict=True)
    ]


def _snapshots(row: Row, batches: list[Batch]) -> Snapshots | None:
    """The snapshots of a shard; None if there are none."""
    shares, iterations, shown = row.recover.snapshots, row.recover.iterations, shown_classes(row.classes)
    labels = sorted({label for batch in batches for label, first, _ in batch if first == 0 and label in shown})
    if not shares or not labels:
        return None
    return Snapshots(iterations=sorted({int(share * iterations) for share in shares}), labels=labels)


def count_steps(batches: list[Batch], settings: RecoverShard) -> int:
    """The iterations of all images in batches, summed."""
    rounds = settings.early_late.rounds if settings.early_late else 1
    return sum(image_steps([end - first for _, first, end in batch], settings.iterations, rounds) for batch in batches)


def _images(spec: RecoverSpec, _scale: Scale) -> int:
    return count_steps(spec.batches, spec.settings)


def _bytes(spec: RecoverSpec, _scale: Scale) -> int:
    image, label_and_number = len(spec.pixels.mean) * spec.pixels.image_size**2, 16
    snapshots = len(spec.snapshots.labels) * len(spec.snapshots.iterations) if spec.snapshots else 0
    return count_images(spec.batches) * (image + label_and_number) + snapshots * image


STAGE = Stage(
    name="recover",
    about="optimise a shard of synthetic images",
    spec=RecoverSpec,
    in_turn=True,
    sharded=True,
    images=_images,
    bytes=_bytes,
    origin="synthetic: optimised by gvbsm, so that teachers' statistics on them come near those on the training images",
)
