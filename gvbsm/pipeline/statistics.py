"""statistics: the moments of the training set inside a teacher."""

from __future__ import annotations

from typing import Literal

from gvbsm.config.row import Backbone, Row
from gvbsm.config.shapes import PixelForm
from gvbsm.config.teachers import Augment, StatisticsPass
from gvbsm.pipeline.scale import Scale
from gvbsm.pipeline.stage import Artifact, Stage, builders_of, part, pixel_form, planned, prefix
from gvbsm.store.spec import Inputs, Spec


class StatisticsInputs(Inputs):
    """The data set and the teacher."""

    data: str
    teacher: str


class MoreStatistics(StatisticsPass):
    """The pass, and optional measurements: moments of each class, and the importance of each statistic."""

    by_class: bool | None = None
    importance: bool | None = None


class StatisticsSpec(Spec):
    """One pass over the augmented training set."""

    stage: Literal["statistics"] = "statistics"
    inputs: StatisticsInputs
    pixels: PixelForm
    augment: Augment
    settings: MoreStatistics

    def shares_pass(self, other: Spec) -> bool:
        """Whether both measure the same augmented images in the same way, so that one pass serves both."""
        if not isinstance(other, StatisticsSpec) or self.inputs.data != other.inputs.data:
            return False
        return (self.pixels, self.augment, self.settings) == (other.pixels, other.augment, other.settings)


def plan_statistics(row: Row, backbone: Backbone, data: Artifact, teacher: Artifact) -> Artifact:
    """The statistics of a teacher of a row."""
    by_class, importance = bool(row.recover.class_statistics) or None, row.recover.keep is not None or None
    return planned(
        StatisticsSpec,
        f"{prefix(row)}-{backbone.label}",
        builders_of([backbone]),
        inputs=StatisticsInputs(data=data.path, teacher=teacher.path),
        pixels=pixel_form(row),
        augment=row.augment,
        settings=part(MoreStatistics, row.statistics, by_class=by_class, importance=importance),
    )


def _images(_spec: StatisticsSpec, scale: Scale) -> int | None:
    return scale.training_images


STAGE = Stage(
    name="statistics",
    about="measure a training set inside one teacher",
    spec=StatisticsSpec,
    ahead=True,
    images=_images,
)
