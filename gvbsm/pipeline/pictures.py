"""Plans the pictures of a run: the artifacts that they show, and the artifacts made only for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from gvbsm.config.load import load_row
from gvbsm.config.messages import SettingsError
from gvbsm.config.project import Pictures
from gvbsm.config.row import Network, Row
from gvbsm.config.targets import Target
from gvbsm.config.yaml_files import config_file
from gvbsm.pipeline.draw import DrawInputs, DrawSpec, Embedding
from gvbsm.pipeline.features import RealImages, plan_features
from gvbsm.pipeline.graph import plan, plan_run
from gvbsm.pipeline.publish import PublishInputs, PublishSpec
from gvbsm.pipeline.stage import Artifact, planned
from gvbsm.pipeline.student import plan_student
from gvbsm.store.run import PICTURES_LIST, Picture

_WITH_SETTINGS = ("classes", "features")  # of config.yaml


@dataclass(frozen=True)
class _Run:
    """A run whose pictures are planned, with its artifacts."""

    row: Row
    artifacts: list[Artifact]
    settings: Pictures | None

    @property
    def inputs(self) -> PublishInputs:
        """Paths of the run's artifacts, as publish reads them."""
        spec = self.artifacts[-1].spec
        assert isinstance(spec, PublishSpec)
        return spec.inputs

    def needed_settings(self) -> Pictures:
        """The settings. Raises SettingsError if there are none."""
        if self.settings is None:
            raise SettingsError(
                f"{config_file()}: expected pictures: with its settings, got none; add "
                "pictures: {real: 50, seed: 0, perplexity: 30}"
            )
        return self.settings

    def at(self, path: str) -> Artifact:
        return next(artifact for artifact in self.artifacts if artifact.path == path)

    def features_of_teachers(self) -> dict[str, Artifact]:
        """The features artifact of every teacher, by its label."""
        paths = self.inputs.teachers
        return {backbone.label: self._features(backbone, self.at(paths[backbone.label])) for backbone in self.row.backbones}

    def first_student(self) -> Artifact:
        student = self.row.evaluate.students[0]
        return plan_student(self.row, student, self.at(self.inputs.students[student.label]["distilled"]))

    def features_of_student(self, student: Artifact) -> Artifact:
        return self._features(self.row.evaluate.students[0], student)

    def _features(self, network: Network, weights: Artifact) -> Artifact:
        settings = self.needed_settings()
        real = RealImages(per_class=settings.real, seed=settings.seed)
        return plan_features(self.row, network, weights, self.inputs.data, self.inputs.images, real)


def plan_picture(dataset: str, ipc: int, recipe: str | None, picture: Picture, settings: Pictures | None) -> list[Artifact]:
    """Every artifact of the run, the artifacts made only for the picture, and last the drawing.

    Raises:
        SettingsError: if the row, the recipe or the settings are wrong, or the run has no such picture.
    """
    return _with_drawing(
        _Run(load_row(dataset, recipe), plan(dataset, ipc, recipe), settings), Target(dataset, ipc, recipe), picture
    )


def _with_drawing(run: _Run, target: Target, picture: Picture) -> list[Artifact]:
    """The artifacts of a run, those made only for one of its pictures, and last its drawing."""
    plan_of_picture = _PICTURES[picture](run)
    drawing = planned(
        DrawSpec,
        f"{run.artifacts[-1].name}-{picture}",
        [f"gvbsm.pictures.{picture}:draw"],
        picture=picture,
        dataset=target.dataset,
        ipc=target.ipc,
        recipe=target.recipe,
        inputs=DrawInputs(data=run.inputs.data, **plan_of_picture.inputs),
        settings=plan_of_picture.settings,
    )
    return [*run.artifacts[:-1], *plan_of_picture.artifacts, drawing]


def pictures_of(dataset: str, recipe: str | None) -> list[Picture]:
    """The pictures of a run. There is no evolution without snapshots of the recovery.

    Raises:
        SettingsError: if the row or the recipe is wrong.
    """
    row = load_row(dataset, recipe)
    return [name for name in get_args(Picture) if name != "evolution" or _has_snapshots(row)]


def pictures_that_can_be_drawn(dataset: str, recipe: str | None, settings: Pictures | None) -> list[Picture]:
    """The `pictures_of` a run that need no `settings`, or all of them if there are settings.

    Raises:
        SettingsError: if the row or the recipe is wrong.
    """
    return [name for name in pictures_of(dataset, recipe) if settings or name not in _WITH_SETTINGS]


def plan_target(target: Target, settings: Pictures | None) -> list[Artifact]:
    """Every artifact of a run and, if the target is a picture or pictures.txt, of that picture or all.

    Raises:
        SettingsError: if the row, the recipe or the settings are wrong.
    """
    pictures = pictures_of(target.dataset, target.recipe)
    if target.file != PICTURES_LIST:
        pictures = [picture for picture in pictures if target.file.startswith(f"pictures/{picture}.")]
    if not pictures:
        return plan_run(target)
    run = _Run(load_row(target.dataset, target.recipe), plan_run(target), settings)
    plans = [_with_drawing(run, target, picture) for picture in pictures]
    return list({artifact.path: artifact for artifacts in plans for artifact in artifacts}.values())


def _has_snapshots(row: Row) -> bool:
    return bool(row.recover.snapshots and row.recover.iterations and not row.distilled)


@dataclass(frozen=True)
class _PicturePlan:
    """The artifacts made only for a picture, and the inputs and settings of its drawing."""

    artifacts: list[Artifact]
    inputs: dict[str, Any]
    settings: Embedding | None = None


def _curves(run: _Run) -> _PicturePlan:
    return _PicturePlan([], {"students": run.inputs.students})


def _classes(run: _Run) -> _PicturePlan:
    features = run.features_of_teachers()
    return _PicturePlan(list(features.values()), {"networks": {label: artifact.path for label, artifact in features.items()}})


def _features(run: _Run) -> _PicturePlan:
    label, teacher = next(iter(run.features_of_teachers().items()))
    student = run.first_student()
    student_features = run.features_of_student(student)
    networks = {f"teacher {label}": teacher.path, f"student {run.row.evaluate.students[0].label}": student_features.path}
    settings = run.needed_settings()
    embedding = Embedding(perplexity=settings.perplexity, seed=settings.seed)
    return _PicturePlan([teacher, student, student_features], {"networks": networks}, embedding)


def _evolution(run: _Run) -> _PicturePlan:
    if not _has_snapshots(run.row):
        raise SettingsError(
            "picture evolution: expected images that were recovered with recover.snapshots, got others; add "
            "snapshots: [0, 0.01, 0.05, 0.2, 0.5] to the row's recover, or ask for another picture"
        )
    recovered = [artifact for artifact in run.artifacts if getattr(artifact.spec, "snapshots", None)]
    return _PicturePlan([], {"images": [artifact.path for artifact in recovered]})


_PICTURES: dict[Picture, Callable[[_Run], _PicturePlan]] = {
    "curves": _curves,
    "classes": _classes,
    "features": _features,
    "evolution": _evolution,
}
