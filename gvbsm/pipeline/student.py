"""student: the weights of one student, trained as evaluate does."""

from __future__ import annotations

from typing import Literal

from gvbsm.config.row import Row, Student
from gvbsm.config.sources import Seed
from gvbsm.config.students import HardTraining, Training
from gvbsm.pipeline.evaluate import EvaluateSpec, HardEvaluateSpec, StudentSpec, has_hard_labels, student_builders
from gvbsm.pipeline.scale import Scale, times
from gvbsm.pipeline.stage import Artifact, Stage, planned, prefix


class KeptStudentSpec(StudentSpec):
    """The student of one seed on soft labels."""

    stage: Literal["student"] = "student"
    settings: Training
    seed: Seed


class KeptHardStudentSpec(StudentSpec):
    """The student of one seed on hard labels."""

    stage: Literal["student"] = "student"
    settings: HardTraining
    seed: Seed


def plan_student(row: Row, student: Student, evaluated: Artifact) -> Artifact:
    """The weights of a student with its first seed. It is trained again, since evaluate stores only accuracies."""
    spec = evaluated.spec
    assert isinstance(spec, (EvaluateSpec, HardEvaluateSpec))
    shared = {name: getattr(spec, name) for name in StudentSpec.model_fields if name not in ("stage", "code")}
    return planned(
        KeptStudentSpec if isinstance(spec, EvaluateSpec) else KeptHardStudentSpec,
        f"{prefix(row)}-{student.label}",
        student_builders(row, student, spec.online is not None),
        **shared,
        seed=spec.seeds[0],
    )


def _images(spec: KeptStudentSpec | KeptHardStudentSpec, scale: Scale) -> int | None:
    return times(scale.distilled_images, spec.settings.epochs)


STAGE = Stage(
    name="student",
    about="train one student and keep its weights",
    spec=KeptStudentSpec,
    spec_for=lambda raw: KeptHardStudentSpec if has_hard_labels(raw) else KeptStudentSpec,
    shared=True,
    images=_images,
)
