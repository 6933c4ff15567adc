"""evaluate: students trained on one set of images and tested."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gvbsm.config.labels import TeachersLabels
from gvbsm.config.row import Row, Student
from gvbsm.config.shapes import LabelledViews, NetworkShape, PixelForm, RandomImages
from gvbsm.config.sources import Seed
from gvbsm.config.students import HardTraining, Training
from gvbsm.pipeline.relabel import check_one_of, views_of
from gvbsm.pipeline.scale import Scale, times
from gvbsm.pipeline.stage import Artifact, Stage, builders_of, network_shape, part, paths_of, pixel_form, planned, prefix
from gvbsm.store.spec import Inputs, Spec


class EvaluateInputs(Inputs):
    """The data set (test images, random training images), the distilled images, and their labels or the teachers."""

    data: str
    images: list[str]
    labels: list[str]
    teachers: list[str] | None = None


class StudentSpec(Spec):
    """What evaluate and `student` have in common: a student and what it is trained on."""

    inputs: EvaluateInputs
    random: RandomImages | None = None
    views: LabelledViews | None = None
    online: TeachersLabels | None = None
    network: NetworkShape
    pixels: PixelForm
    settings: Any  # a subclass narrows the type

    @model_validator(mode="after")
    def _one_set_of_images_and_labels(self) -> StudentSpec:
        check_one_of("inputs.images", self.inputs.images, "random", self.random)
        check_one_of("inputs.labels", self.inputs.labels, "views", self.views)
        if bool(self.inputs.teachers) != bool(self.online) or (self.online and not self.views):
            raise ValueError("expected inputs.teachers, online and views together or none of them; correct the spec")
        return self


class EvaluateSpec(StudentSpec):
    """Students of several seeds on soft labels, stored or made online."""

    suffix = ".csv"

    stage: Literal["evaluate"] = "evaluate"
    settings: Training
    seeds: Annotated[list[Seed], Field(min_length=1)]


class HardEvaluateSpec(StudentSpec):
    """Students of several seeds on hard labels."""

    suffix = ".csv"

    stage: Literal["evaluate"] = "evaluate"
    settings: HardTraining
    seeds: Annotated[list[Seed], Field(min_length=1)]


def has_hard_labels(raw: Mapping[str, Any]) -> bool:
    """Whether the JSON of a student's spec says that it learns from hard labels alone."""
    return bool(raw.get("views") and not raw.get("online"))


def plan_evaluate(
    row: Row,
    student: Student,
    kind: str,
    data: Artifact,
    images: list[Artifact],
    labels: list[Artifact],
    teachers: list[Artifact],
    random: RandomImages | None,
) -> Artifact:
    """A student on stored soft labels (`labels`), on online ones (`teachers`), or without both on hard labels.

    `kind` is one of gvbsm.pictures.names.KINDS.
    """
    is_soft = bool(labels or teachers)
    return planned(
        EvaluateSpec if is_soft else HardEvaluateSpec,
        f"{prefix(row)}-{student.label}-{kind}",
        student_builders(row, student, bool(teachers)),
        inputs=EvaluateInputs(
            data=data.path, images=paths_of(images), labels=paths_of(labels), teachers=paths_of(teachers) or None
        ),
        random=random,
        views=None if labels else part(LabelledViews, views_of(row, random), epochs=row.labelled_epochs),
        online=part(TeachersLabels, row.relabel) if teachers else None,
        network=network_shape(row, student),
        pixels=pixel_form(row),
        settings=part(Training if is_soft else HardTraining, student.evaluate),
        seeds=row.evaluate.seeds,
    )


def student_builders(row: Row, student: Student, online: bool) -> tuple[str, ...]:
    """The builders of a student and, with `online`, of the teachers that label its views."""
    return builders_of([student, *(row.backbones if online else [])])


def _images(spec: EvaluateSpec | HardEvaluateSpec, scale: Scale) -> int | None:
    return times(scale.distilled_images, spec.settings.epochs * len(spec.seeds))


STAGE = Stage(
    name="evaluate",
    about="train and test one student on one set of images",
    spec=EvaluateSpec,
    spec_for=lambda raw: HardEvaluateSpec if has_hard_labels(raw) else EvaluateSpec,
    shared=True,
    images=_images,
)
