"""The card of an exported folder, README.md: what it is, from what, on what terms, how to read it and train on it.

Its text is in the templates beside this; here are the values that stand in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gvbsm.config.messages import as_in_a_row
from gvbsm.format import readable_seeds, readable_spread
from gvbsm.pictures.names import kind_name
from gvbsm.pictures.table import student_rows
from gvbsm.pipeline.convert import ConvertSpec
from gvbsm.pipeline.recover import RecoverSpec
from gvbsm.pipeline.registry import STAGES
from gvbsm.pipeline.relabel import RelabelSpec
from gvbsm.share.folder import CLASSES, SHARD, ExportedClass, Manifest, unique_names
from gvbsm.share.licences import Source
from gvbsm.share.markdown import environment
from gvbsm.share.run import PublishedRun
from gvbsm.store.run import Accuracies
from gvbsm.store.spec import Json
from gvbsm.training.fit import milestone_epochs

_LISTED = 100  # classes that the card names; of more it says where they stand
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))
_USUAL = {"ema": None, "accumulate": 1, "hard_label": "mixed", "precision": "float32"}  # as training.py.j2 does it
_UNSAID = ("test_every", "threads")  # what no accuracy depends on


def card(run: PublishedRun, manifest: Manifest, classes: list[ExportedClass], source: Source) -> str:
    """Markdown (UTF-8) with the YAML front matter that the Hugging Face Hub and `datasets` read."""
    title = f"{manifest.dataset}, {manifest.ipc} per class" + (f", {manifest.recipe}" if manifest.recipe else "")
    spec = run.spec(run.inputs.images[0])
    values = {
        "front_matter": _front_matter(manifest, classes, source, title),
        "title": title,
        "images": manifest.images,
        "image_size": manifest.image_size,
        "channels": manifest.channels,
        "version": run.accuracies["provenance"]["packages"].get("gvbsm", ""),
        "origin": STAGES[spec.stage].origin or f"made by gvbsm, in the stage {spec.stage}",
        "is_begun_from_real": isinstance(spec, RecoverSpec) and bool(spec.inputs.start),
        "labels": _labels(run) if manifest.labels else None,
        "classes": len(classes),
        "classes_file": CLASSES,
        "class_names": unique_names(classes) if len(classes) <= _LISTED else [],
        "source": source,
        "form": manifest.form,
        "last_shard": (manifest.images - 1) // SHARD,
        "program": training_program(next(iter(manifest.training.values()))),
        "students": [_student(name, training) for name, training in manifest.training.items()],
        "accuracies": _accuracies(run.accuracies),
    }
    return environment().get_template("card.md.j2").render(values)


def _front_matter(manifest: Manifest, classes: list[ExportedClass], source: Source, title: str) -> Json:
    files = {"split": "train", "path": "train-*.tar" if manifest.form == "webdataset" else "train/**"}
    config: Json = {"config_name": "default", "data_files": [files]}
    if manifest.form == "huggingface":
        # Without it the labels of metadata.jsonl are mere integers.
        pairs = zip(classes, unique_names(classes), strict=True)
        names = {str(exported.label): name for exported, name in pairs}
        label = {"name": "label", "dtype": {"class_label": {"names": names}}}
        config["features"] = [{"name": "image", "dtype": "image"}, label]
    return {
        "license": source.identifier,
        "task_categories": ["image-classification"],
        "pretty_name": title,
        "size_categories": [next((name for most, name in _SIZES if manifest.images < most), "n>1M")],
        "tags": ["dataset-distillation", "dataset-condensation"],
        "configs": [config],
    }


@dataclass(frozen=True)
class Labels:
    """The stored soft labels."""

    coding: str  # of a value
    top: int | None  # logits of a view that are kept; None: all
    teachers: tuple[str, ...]  # none of labels that others published
    epochs: int
    bytes: int


def _labels(run: PublishedRun) -> Labels:
    specs = [spec for path in run.inputs.labels if isinstance(spec := run.spec(path), (RelabelSpec, ConvertSpec))]
    first = specs[0]
    coding = first.settings.coding if isinstance(first, RelabelSpec) else first.coding
    return Labels(
        coding=coding.values,
        top=coding.top,
        teachers=tuple(run.accuracies["teachers"]) if isinstance(first, RelabelSpec) else (),
        epochs=max(spec.epochs[1] for spec in specs),
        bytes=run.accuracies["soft_labels"]["bytes"],
    )


@dataclass(frozen=True)
class Student:
    """How a student was trained."""

    name: str
    network: tuple[str, ...]  # its name, then its options
    settings: tuple[str, ...]
    seeds: str


def _student(name: str, training: Json) -> Student:
    network = training["network"]
    options = [f"{option} {as_in_a_row(value)}" for option, value in network["options"].items()]
    given = {setting: value for setting, value in training["settings"].items() if value is not None}
    settings = [f"{setting} {as_in_a_row(value)}" for setting, value in given.items() if setting not in _UNSAID]
    return Student(name, (network["name"], *options), tuple(settings), ", ".join(map(str, training["seeds"])))


@dataclass(frozen=True)
class Program:
    """What the program differs in from student to student."""

    network: str
    options: dict[str, Any]  # of the network, with its shape
    optimizer: str
    lr: float
    weight_decay: float
    momentum: float  # of SGD
    cosine_epochs: float | None  # after which the learning rate is 0; None: there is no cosine
    milestones: list[int]  # epochs after which the learning rate is multiplied by gamma
    gamma: float | None
    epochs: int
    batch_size: int | None  # None: the batches in which the labels were made
    loss: str
    temperature: float | None
    hard_weight: float
    left_out: tuple[str, ...]  # settings that the program does not follow


def training_program(training: Json) -> Program:
    """The values of training.py.j2, from how a student was trained (`Manifest.training`)."""
    network, settings = training["network"], training["settings"]
    shape = {name: network[name] for name in ("classes", "image_size", "channels")}
    is_cosine = settings["schedule"] == "cosine"
    return Program(
        network=network["name"],
        options={**shape, **network["options"]},
        optimizer=settings["optimizer"],
        lr=settings["lr"],
        weight_decay=settings["weight_decay"],
        momentum=settings.get("momentum") or 0.0,
        cosine_epochs=(settings.get("stretch") or 1) * settings["epochs"] if is_cosine else None,
        milestones=milestone_epochs(settings.get("milestones") or (), settings["epochs"]),
        gamma=settings.get("gamma"),
        epochs=settings["epochs"],
        batch_size=settings.get("batch_size"),
        loss=settings["loss"],
        temperature=settings.get("temperature"),
        hard_weight=settings["hard_weight"],
        left_out=tuple(name for name, usual in _USUAL.items() if settings.get(name) not in (None, usual)),
    )


@dataclass(frozen=True)
class AccuracyCell:
    """An accuracy, and whether it is the best of its student's."""

    text: str
    is_best: bool


@dataclass(frozen=True)
class AccuracyRow:
    """A student's accuracies, one for each kind of training images, and its margin over random real images, if it has one."""

    student: str
    accuracies: tuple[AccuracyCell, ...]
    margin: str | None


@dataclass(frozen=True)
class AccuracyTable:
    """Every student on every image set and kind of label; the teachers."""

    kinds: tuple[str, ...]
    rows: tuple[AccuracyRow, ...]
    has_margins: bool
    seeds: str
    teachers: tuple[tuple[str, float], ...]


def _accuracies(accuracies: Accuracies) -> AccuracyTable:
    table, rows = student_rows(accuracies), []
    for student, _, spreads, over in table:
        best = max(top1["mean"] for top1 in spreads.values())
        cells = [AccuracyCell(readable_spread(top1["mean"], top1["std"]), top1["mean"] == best) for top1 in spreads.values()]
        rows.append(AccuracyRow(student, tuple(cells), readable_spread(over.mean, over.std, "+") if over else None))
    return AccuracyTable(
        # The card lies beside the distilled images: these images, soft labels; random real images, soft labels.
        kinds=tuple(kind_name(kind).replace("distilled", "these").replace(",", " images,") for kind in table[0].top1),
        rows=tuple(rows),
        has_margins=any(row.margin for row in rows),
        seeds=readable_seeds(len(table[0].top1["distilled"]["runs"])),
        teachers=tuple((name, teacher["top1"]) for name, teacher in accuracies["teachers"].items()),
    )
