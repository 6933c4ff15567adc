"""From settings to the pictures of a run: what they show, and what has to be made for them beside the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gvbsm import stage_plans as stages
from gvbsm.configs import config_folder, parse_target
from gvbsm.mistakes import SettingsError
from gvbsm.plan import plan
from gvbsm.planfiles import Artifact, Spec
from gvbsm.rows import load_row
from gvbsm.settings import Pictures, Row

PICTURES = "pictures.txt"  # in a run's folder: the list of its pictures
_WITH_SETTINGS = ("classes", "features")  # of config.yaml


@dataclass(frozen=True)
class _Run:
    """A run whose pictures are planned, with the artifacts of its own that they are made from."""

    row: Row
    planned: list[Artifact]
    settings: Pictures | None

    @property
    def inputs(self) -> Spec:
        """Paths of the run's artifacts, as publish reads them."""
        inputs: Spec = self.planned[-1].spec["inputs"]
        return inputs

    def asked(self) -> Pictures:
        """The settings. Raises SettingsError if there are none."""
        if self.settings is None:
            raise SettingsError(
                f"{config_folder() / 'config.yaml'}: expected pictures: with its settings, got none; add "
                "pictures: {real: 50, seed: 0, perplexity: 30}"
            )
        return self.settings

    def at(self, path: str) -> Artifact:
        return next(one for one in self.planned if one.path == path)

    def seen_by_teachers(self) -> dict[str, Artifact]:
        """What every teacher sees, by its label."""
        paths = self.inputs["teachers"]
        return {one.label: self._seen(one, self.at(paths[one.label])) for one in self.row.backbones}

    def first_student(self) -> Artifact:
        student = self.row.evaluate.students[0]
        return stages.first_student(self.row, student, self.at(self.inputs["students"][student.label]["distilled"]))

    def seen_by(self, student: Artifact) -> Artifact:
        return self._seen(self.row.evaluate.students[0], student)

    def _seen(self, network: stages.Network, weights: Artifact) -> Artifact:
        settings = self.asked()
        real = {"per_class": settings.real, "seed": settings.seed}
        return stages.features(self.row, network, weights, self.inputs["data"], self.inputs["images"], real)


def plan_picture(dataset: str, ipc: int, recipe: str | None, picture: str, settings: Pictures | None) -> list[Artifact]:
    """Every artifact of the run, what the picture needs beside them, and last its drawing.

    Raises:
        SettingsError: if the row, the recipe or the settings are wrong, or the run has no such picture.
    """
    run = _Run(load_row(dataset, recipe), plan(dataset, ipc, recipe), settings)
    beside, spec = _PICTURES[picture](run)
    spec["inputs"] |= {"data": run.inputs["data"]}
    named = {"picture": picture, "dataset": dataset, "ipc": ipc, "recipe": recipe}
    drawing = stages.planned("draw", f"{run.planned[-1].name}-{picture}", named | spec, (f"gvbsm.pictures.{picture}:draw",))
    return [*run.planned[:-1], *beside, drawing]


def pictures_of(dataset: str, recipe: str | None) -> list[str]:
    """The pictures that a run has: of images that were not recovered, or not watched meanwhile, there is no evolution.

    Raises:
        SettingsError: if the row or the recipe is wrong.
    """
    return [name for name in _PICTURES if name != "evolution" or _is_watched(load_row(dataset, recipe))]


def pictures_that_can_be_drawn(dataset: str, recipe: str | None, settings: Pictures | None) -> list[str]:
    """Those of `pictures_of` whose settings, if they need any, are there.

    Raises:
        SettingsError: if the row or the recipe is wrong.
    """
    return [name for name in pictures_of(dataset, recipe) if settings or name not in _WITH_SETTINGS]


def plan_target(target: str, settings: Pictures | None) -> list[Artifact]:
    """Every artifact of a run and, if the target is its pictures.txt, of its pictures.

    Raises:
        SettingsError: if the target, the row, the recipe or the settings are wrong.
    """
    dataset, ipc, recipe = parse_target(target)
    if Path(target).name != PICTURES:
        return plan(dataset, ipc, recipe)
    drawn = [plan_picture(dataset, ipc, recipe, picture, settings) for picture in pictures_of(dataset, recipe)]
    return list({artifact.path: artifact for planned in drawn for artifact in planned}.values())


def _is_watched(row: Row) -> bool:
    return bool(row.recover.snapshots and row.recover.iterations and not row.distilled)


def _curves(run: _Run) -> tuple[list[Artifact], Spec]:
    return [], {"inputs": {"students": run.inputs["students"]}}


def _classes(run: _Run) -> tuple[list[Artifact], Spec]:
    seen = run.seen_by_teachers()
    return list(seen.values()), {"inputs": {"networks": {label: one.path for label, one in seen.items()}}}


def _features(run: _Run) -> tuple[list[Artifact], Spec]:
    label, teacher = next(iter(run.seen_by_teachers().items()))
    student = run.first_student()
    of_student = run.seen_by(student)
    networks = {f"teacher {label}": teacher.path, f"student {run.row.evaluate.students[0].label}": of_student.path}
    settings = run.asked().model_dump(include={"perplexity", "seed"})
    return [teacher, student, of_student], {"inputs": {"networks": networks}, "settings": settings}


def _evolution(run: _Run) -> tuple[list[Artifact], Spec]:
    if not _is_watched(run.row):
        raise SettingsError(
            "picture evolution: expected images that were recovered with recover.snapshots, got others; add "
            "snapshots: [0, 0.01, 0.05, 0.2, 0.5] to the row's recover, or ask for another picture"
        )
    shards = [path for path in run.inputs["images"] if run.at(path).spec["snapshots"]]
    return [], {"inputs": {"images": shards}}


_PICTURES: dict[str, Callable[[_Run], tuple[list[Artifact], Spec]]] = {
    "curves": _curves,
    "classes": _classes,
    "features": _features,
    "evolution": _evolution,
}
