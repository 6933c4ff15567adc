"""The files of a run, the content of acc.json, and a published run."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple, NotRequired, get_args

from pydantic import TypeAdapter, ValidationError
from typing_extensions import TypedDict  # typing's does not suffice for pydantic before Python 3.12

from gvbsm.errors import UserError
from gvbsm.store.files import parse_json
from gvbsm.store.keys import key
from gvbsm.store.spec import Json
from gvbsm.store.working_folder import RESULTS, check_working_folder, make_command

ACCURACIES = "acc.json"
REPORT = "report.html"
SETTINGS = "settings.yaml"  # the row and the recipe as they were, which can be run again
PICTURES_LIST = "pictures.txt"
PICTURE_FORMS = ("png", "svg", "pdf")
# What publish writes.
PUBLISHED_FILES = (ACCURACIES, SETTINGS, "table.csv", "classes.csv", *(f"images.{form}" for form in PICTURE_FORMS))
RUN_FILES = (*PUBLISHED_FILES, PICTURES_LIST, REPORT)  # in results/<dataset>/<run>/; further pictures are in pictures/
Picture = Literal["curves", "evolution", "features", "classes"]  # in pictures/, in the order of pages
PICTURES: tuple[Picture, ...] = get_args(Picture)


class Spread(TypedDict):
    """An accuracy over seeds, in percent."""

    mean: float
    std: float | None  # None of one seed
    runs: list[float]


class Result(TypedDict):
    """The accuracies of a student."""

    top1: Spread  # after the last epoch
    top5: NotRequired[Spread]
    best_top1: NotRequired[Spread]  # of the best tested epoch of each seed
    ema: NotRequired[float]  # decay of the average of its weights, if that was tested


class Margin(NamedTuple):
    """By how many points distilled images are better than random real images."""

    mean: float
    std: float | None  # of the difference of two independent students; None of one seed


def margin(distilled: Spread, random: Spread) -> Margin:
    """The margin of an accuracy."""
    deviations = (distilled["std"], random["std"])
    std = None if None in deviations else math.hypot(*(deviation or 0.0 for deviation in deviations))
    return Margin(distilled["mean"] - random["mean"], std)


class TeacherResult(TypedDict):
    """The accuracy of a teacher."""

    top1: float  # percent of the test images


class SoftLabels(TypedDict):
    """The soft labels of the distilled images."""

    bytes: int  # as stored; 0 if they are made online
    teacher_top1_on_views: float | None  # percent of the labelled views


class Cost(TypedDict):
    """The cost of a stage, over its jobs."""

    jobs: int
    seconds: float
    images: NotRequired[int]  # processed images, with repetitions
    images_per_second: NotRequired[float]
    bytes: NotRequired[int]
    peak_memory_bytes: NotRequired[int]  # of one job
    peak_device_memory_bytes: NotRequired[int]


class Provenance(TypedDict):
    """The spec and artifacts of a run, and the software and machine that made it."""

    spec: Json  # publish's
    artifacts: dict[str, str]  # SHA-256 by path in the store
    devices: NotRequired[list[str]]
    git: NotRequired[str | None]
    packages: dict[str, str]
    python: NotRequired[str]
    machine: NotRequired[str]


class Verdict(TypedDict):
    """What a network that is no teacher says of the distilled images."""

    assigned: float  # percent of the images that it assigns to their class
    top1: float  # its own accuracy: percent of the test images


class Accuracies(TypedDict):
    """acc.json: the one list of its keys."""

    dataset: str
    ipc: int
    recipe: str | None
    images: int
    key: str
    students: dict[str, Result]  # on the distilled images, by student
    baselines: dict[str, dict[str, Result]]  # by kind of images and labels (pictures.names.KINDS), and by student
    teachers: dict[str, TeacherResult]
    judge: NotRequired[dict[str, Verdict]]  # by network
    soft_labels: SoftLabels
    cost: dict[str, Cost]  # by stage
    settings: NotRequired[Json]  # by stage
    provenance: Provenance


@dataclass(frozen=True)
class Published:
    """The acc.json of a run."""

    file: Path
    accuracies: Accuracies

    @property
    def folder(self) -> Path:
        """The folder of the run."""
        return self.file.parent

    @property
    def name(self) -> str:
        """Data set and name of the folder, such as digits/ipc10."""
        return f"{self.accuracies['dataset']}/{Path(os.path.abspath(self.folder)).name}"  # noqa: PTH100 (a link keeps its name)

    @property
    def target(self) -> str:
        """The Snakemake target that makes the run."""
        recipe = f"-{self.accuracies['recipe']}" if self.accuracies["recipe"] else ""
        return f"{RESULTS}/{self.accuracies['dataset']}/ipc{self.accuracies['ipc']}{recipe}/{ACCURACIES}"


def read_published(run: Path) -> Published:
    """The run of a folder `results/<dataset>/<run>`, or of a file in it; does not read the store.

    Raises:
        UserError: if it is not published, or its acc.json is not what publish writes.
    """
    file = run if run.suffix == ".json" else run_folder(run) / ACCURACIES
    try:
        accuracies = parse_json(file.read_text(encoding="utf-8"))
        _form().validate_python(accuracies, strict=True)  # its result would lack what other versions write
        if key(accuracies["provenance"]["spec"]) != accuracies["key"] or not accuracies["students"]:
            raise ValueError("of another key, or of nothing")
        if any(accuracies["students"].keys() - by_student for by_student in accuracies["baselines"].values()):
            raise ValueError("of other students")
    except OSError as error:
        if file.parts[:1] == (RESULTS,):
            check_working_folder()
        raise UserError(f"{file}: cannot be read: {error.strerror}; make it with: {make_command(file)}") from None
    except ValueError as error:
        place = error.errors()[0]["loc"] if isinstance(error, ValidationError) else ()
        where = f" at {'.'.join(map(str, place))!r}" if place else ""
        raise damaged(file, where) from None
    return Published(file, accuracies)


def damaged(file: Path, where: str = "") -> UserError:
    """The error for a file of a run that is not what publish wrote. Snakemake, which looks at its time alone, leaves it."""
    again = make_command(file, file)
    return UserError(f"{file}: expected what publish writes, got something else{where}; make it again with: {again}")


@cache  # made only where a run is read: that takes some milliseconds
def _form() -> TypeAdapter[Accuracies]:
    return TypeAdapter(Accuracies)


def run_folder(path: Path) -> Path:
    """The folder of a run, from its own path or that of one of its files."""
    if path.name in RUN_FILES:
        return path.parent
    return path.parent.parent if path.parent.name == "pictures" else path


def further_pictures(folder: Path) -> dict[Picture, list[Path]]:
    """The existing files of a run's pictures, by name, without images.png."""
    files = {name: [folder / "pictures" / f"{name}{suffix}" for suffix in (".png", ".svg")] for name in PICTURES}
    existing = {name: [file for file in forms if file.is_file()] for name, forms in files.items()}
    return {name: forms for name, forms in existing.items() if forms}
