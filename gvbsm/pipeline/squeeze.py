"""squeeze: the teachers, trained here or loaded from files of weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from gvbsm.config.row import Backbone, Row, Weights
from gvbsm.config.shapes import NetworkShape, PixelForm
from gvbsm.config.steps import Compute
from gvbsm.config.teachers import Augment, Squeeze
from gvbsm.pipeline.scale import Scale, times
from gvbsm.pipeline.stage import Artifact, Stage, builders_of, network_shape, part, pixel_form, planned, prefix
from gvbsm.store.spec import Inputs, Json, Spec


class SqueezeInputs(Inputs):
    """The data set."""

    data: str


class _Teacher(Spec):
    stage: Literal["squeeze"] = "squeeze"
    inputs: SqueezeInputs
    network: NetworkShape
    pixels: PixelForm


class SqueezeSpec(_Teacher):
    """A teacher that is trained."""

    augment: Augment
    settings: Squeeze

    def continues(self, other: Spec) -> bool:
        """Whether this is the same training as another, kept after more epochs."""
        if not isinstance(other, SqueezeSpec) or self.settings.trained_epochs <= other.settings.trained_epochs:
            return False
        return self._training == other._training

    @property
    def _training(self) -> Json:
        return self.json_object | {"settings": self.json_object["settings"] | {"keep_epoch": None}}


class GivenTeacherSpec(_Teacher):
    """A teacher with given weights: it is tested, not trained."""

    weights: Weights
    trust_weights: bool | None = None
    settings: Compute


def plan_squeeze(row: Row, backbone: Backbone, data: Artifact, seed: int) -> Artifact:
    """A teacher of a row; `seed` has no effect on one with given weights."""
    name, builders = f"{prefix(row)}-{backbone.label}", builders_of([backbone])
    inputs, network, pixels = SqueezeInputs(data=data.path), network_shape(row, backbone), pixel_form(row)
    if backbone.weights:
        return planned(
            GivenTeacherSpec,
            name,
            [*builders, "gvbsm.training.pretrained:load_pretrained"],
            trust_weights=backbone.trust_weights or None,
            inputs=inputs,
            network=network,
            pixels=pixels,
            weights=backbone.weights,
            settings=part(Compute, backbone.squeeze),
        )
    settings = part(Squeeze, backbone.squeeze, seed=seed)
    return planned(
        SqueezeSpec, name, builders, inputs=inputs, network=network, pixels=pixels, augment=row.augment, settings=settings
    )


def teachers_before(spec: Spec, teachers: Mapping[str, Spec]) -> list[str]:
    """Paths of the teachers that are made before this long job, although it does not read them.

    They are those with given weights, which may be refused, and the earlier epoch from which a training goes on.
    """
    if isinstance(spec, GivenTeacherSpec):
        return []
    given = [path for path, teacher in teachers.items() if isinstance(teacher, GivenTeacherSpec)]
    earlier = goes_on_from(spec, teachers)
    return given + ([earlier] if earlier else [])


def goes_on_from(spec: Spec, teachers: Mapping[str, Spec]) -> str | None:
    """Of teachers by path, the latest epoch from which a training goes on; None if it begins anew."""
    earlier = [
        (teacher.settings.trained_epochs, path)
        for path, teacher in teachers.items()
        if isinstance(teacher, SqueezeSpec) and isinstance(spec, SqueezeSpec) and spec.continues(teacher)
    ]
    return max(earlier)[1] if earlier else None


def _spec_for(raw: Mapping[str, Any]) -> type[Spec]:
    return GivenTeacherSpec if raw.get("weights") else SqueezeSpec


def _images(spec: SqueezeSpec | GivenTeacherSpec, scale: Scale) -> int | None:
    if isinstance(spec, GivenTeacherSpec):
        return None
    return times(scale.training_images, spec.settings.trained_epochs)


STAGE = Stage(
    name="squeeze",
    about="train one teacher",
    spec=SqueezeSpec,
    spec_for=_spec_for,
    checkpoints=lambda spec: isinstance(spec, SqueezeSpec),
    shared=True,
    images=_images,
)
