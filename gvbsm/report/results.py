"""What a run came to, as the page shows it: accuracies, pictures, accuracies by class."""

from __future__ import annotations

import base64
import csv
from dataclasses import dataclass
from pathlib import Path

from gvbsm.errors import UserError
from gvbsm.pictures.names import JUDGE, KINDS, kind_name
from gvbsm.pictures.protocols import Protocol, protocol
from gvbsm.pictures.table import StudentRow, student_rows
from gvbsm.store.run import Margin, Picture, Published, Spread, Verdict, further_pictures

_MEANS_TOP5 = 10  # classes, up to which top-5 accuracies say little
_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


@dataclass(frozen=True)
class Facts:
    """What a reader wants to know first."""

    images: int  # distilled
    label_bytes: int  # 0 if soft labels are made online
    teachers: int
    seconds: float  # over all jobs
    jobs: int


def read_facts(published: Published) -> Facts:
    """The facts at the head of the page."""
    accuracies, cost = published.accuracies, published.accuracies["cost"].values()
    return Facts(
        images=accuracies["images"],
        label_bytes=accuracies["soft_labels"]["bytes"],
        teachers=len(accuracies["teachers"]),
        seconds=sum(stage["seconds"] for stage in cost),
        jobs=sum(stage["jobs"] for stage in cost),
    )


@dataclass(frozen=True)
class AccuracyRow:
    """What a student reached on one set of training images."""

    trained_on: str
    is_best: bool  # of the student's rows
    margin: Margin | None  # over random real images with soft labels, of distilled images with soft labels
    top1: Spread
    top5: Spread | None  # None where five guesses are half of the classes, too
    best_top1: Spread | None


@dataclass(frozen=True)
class StudentAccuracies:
    """A student's rows."""

    name: str
    ema: float | None  # decay of the average of its weights, if that was tested
    rows: tuple[AccuracyRow, ...]
    protocol: Protocol | None  # None in runs of earlier versions


@dataclass(frozen=True)
class AccuracyTables:
    """Every student on every set of images, the teachers, and the soft labels."""

    seeds: int
    students: tuple[StudentAccuracies, ...]
    is_best_first: bool  # in table.csv
    teachers: tuple[tuple[str, float], ...]
    label_bytes: int  # 0 if soft labels are made online
    teacher_top1_on_views: float | None
    judges: tuple[tuple[str, Verdict], ...]


def read_accuracies(published: Published) -> AccuracyTables:
    """Accuracies as acc.json has them, by student."""
    accuracies = published.accuracies
    labels, rows = accuracies["soft_labels"], student_rows(accuracies)
    return AccuracyTables(
        seeds=max(len(result["top1"]["runs"]) for result in accuracies["students"].values()),
        students=tuple(group for row in rows for group in _student(published, row)),
        is_best_first=accuracies["provenance"]["spec"].get("headline") == "best",
        teachers=tuple((name, teacher["top1"]) for name, teacher in accuracies["teachers"].items()),
        label_bytes=labels["bytes"],
        teacher_top1_on_views=labels.get("teacher_top1_on_views"),
        judges=tuple(accuracies.get("judge", {}).items()),
    )


def _student(published: Published, of: StudentRow) -> list[StudentAccuracies]:
    """A student's rows; those with an average of its weights are apart from those without."""
    best = max(result["top1"]["mean"] for result in of.results.values())
    has_top5 = published.accuracies["images"] > _MEANS_TOP5 * published.accuracies["ipc"]
    groups: dict[float | None, list[AccuracyRow]] = {}
    for kind, result in of.results.items():
        row = AccuracyRow(
            trained_on=kind_name(kind),
            is_best=result["top1"]["mean"] == best,
            margin=of.margin if kind == "distilled" else None,
            top1=result["top1"],
            top5=result.get("top5") if has_top5 else None,
            best_top1=result.get("best_top1"),
        )
        groups.setdefault(result.get("ema") or None, []).append(row)
    return [StudentAccuracies(of.student, ema, tuple(rows), protocol(published, of.student)) for ema, rows in groups.items()]


@dataclass(frozen=True)
class Pictures:
    """The pictures that are there, each as an address that holds the whole file."""

    grid: str | None  # images.png
    classes: tuple[str, ...]  # names of its rows
    further: tuple[tuple[Picture, str], ...]


def read_pictures(published: Published) -> Pictures:
    """The distilled images, and the smaller file of every further picture.

    Raises:
        UserError: if classes.csv is not what publish writes.
    """
    grid = published.folder / "images.png"
    smallest = {
        name: min(files, key=lambda file: file.stat().st_size) for name, files in further_pictures(published.folder).items()
    }
    return Pictures(
        grid=_address(grid) if grid.is_file() else None,
        classes=tuple(row["name"] for row in _class_rows(published)),
        further=tuple((name, _address(file)) for name, file in smallest.items()),
    )


def _address(file: Path) -> str:
    return f"data:{_TYPES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"


@dataclass(frozen=True)
class ClassRow:
    """A class and its top-1 accuracies, one for each column."""

    name: str
    identity: str | None  # what identifies the class, if that is not its name or its label
    accuracies: tuple[float | None, ...]


@dataclass(frozen=True)
class ClassTable:
    """Top-1 of every class, of each student on each set of images."""

    columns: tuple[str, ...]
    rows: tuple[ClassRow, ...]


def read_classes(published: Published) -> ClassTable:
    """The table of classes.csv; one without rows if the file is not there.

    Raises:
        UserError: if the file is not what publish writes.
    """
    rows = _class_rows(published)
    names = rows[0].keys() - {"label", "class", "name"} if rows else set()
    columns = sorted(names, key=_order)
    return ClassTable(tuple(map(_column, columns)), tuple(_class_row(row, columns) for row in rows))


def _class_row(row: dict[str, str], columns: list[str]) -> ClassRow:
    identity = None if row["class"] in (row["name"], row["label"]) else row["class"]
    accuracies = tuple(float(row[column]) if row[column] else None for column in columns)
    return ClassRow(row["name"], identity, accuracies)


def _class_rows(published: Published) -> list[dict[str, str]]:
    """The rows of classes.csv; none if it is not there."""
    file = published.folder / "classes.csv"
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: expected the table that publish writes, got an error: {error}; make it again") from None
    if rows and not {"label", "class", "name"} <= rows[0].keys():
        raise UserError(f"{file}: expected columns label, class and name, got {', '.join(rows[0])}; make it again")
    return rows


def _order(column: str) -> tuple[str, int, str]:
    """Students one after the other, each with its sets of images in the order of the other tables."""
    student, _, kind = column.rpartition(" ")
    return student, list(KINDS).index(kind) if kind in KINDS else len(KINDS), column


def _column(name: str) -> str:
    network, _, kind = name.rpartition(" ")
    if kind == JUDGE:
        return f"images that {network} assigns to their class"
    return f"{network}: {kind_name(kind)}" if kind in KINDS else name
