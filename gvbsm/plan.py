"""From settings to the artifacts of one target: every spec, and so every key and path, before anything runs."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from pathlib import PurePath

from pydantic import BaseModel

from gvbsm import keys, network_names
from gvbsm.planfiles import Artifact, Spec
from gvbsm.rows import load_row
from gvbsm.settings import (
    Backbone,
    Compute,
    Distilled,
    HardTraining,
    Network,
    Recover,
    RecoverShard,
    Relabel,
    RelabelShard,
    Row,
    StatisticsPass,
    Student,
    TeachersLabels,
    Training,
    ViewsOfImages,
)
from gvbsm.sources import ImageFolder


def plan(dataset: str, ipc: int, recipe: str | None = None) -> list[Artifact]:
    """Every artifact of `results/<dataset>/ipc<ipc>[-<recipe>]`, each after its inputs, publish last.

    Raises:
        SettingsError: if the row or the recipe is wrong.
    """
    row = load_row(dataset, recipe)
    reader = keys.registry("data", "DATASETS")[row.source.kind]
    data = _artifact("prepare", _prefix(row), _prepare_spec(row), builders=(reader,))
    planned = [data]
    teachers, statistics = [], []
    for backbone in row.backbones:
        teacher = _squeeze(row, backbone, data, backbone.squeeze.seed)
        teachers.append(teacher)
        if row.distilled:
            continue
        measured = teacher
        if row.statistics.measured_in == "twin" and backbone.weights is None:
            measured = _squeeze(row, backbone, data, backbone.squeeze.seed + 1)
            planned.append(measured)
        statistics.append(_statistics(row, backbone, data, measured))
    planned += teachers + statistics
    random = {"ipc": ipc, "seed": row.evaluate.random_seed}
    images = [_adopt(row, row.distilled, ipc, data)] if row.distilled else _recover(row, ipc, teachers, statistics)
    if row.distilled and row.distilled.labels:
        labels = _convert(row, row.distilled, images[0])
    else:
        labels = _relabel(row, teachers, {"images": [image.path for image in images]}, None)
    random_labels = _relabel(row, teachers, {"data": data.path}, random)
    planned += images + labels + random_labels
    beside = teachers if row.relabel.online else []
    runs: dict[str, dict[str, Artifact]] = {}
    for student in row.evaluate.students:
        runs[student.label] = {
            "distilled": _evaluate(row, student, data, images, labels, beside, None),
            "random_hard": _evaluate(row, student, data, [], [], [], random),
            "random_soft": _evaluate(row, student, data, [], random_labels, beside, random),
        }
        planned += runs[student.label].values()
    spec = {
        "dataset": dataset,
        "ipc": ipc,
        "recipe": recipe,
        "headline": row.evaluate.headline,
        "inputs": {
            "data": data.path,
            "teachers": {b.label: teacher.path for b, teacher in zip(row.backbones, teachers, strict=True)},
            "statistics": [one.path for one in statistics],
            "images": [one.path for one in images],
            "labels": [one.path for one in labels],
            "random_labels": [one.path for one in random_labels],
            "students": {label: {kind: run.path for kind, run in sets.items()} for label, sets in runs.items()},
        },
    }
    run = f"ipc{ipc}" + (f"-{recipe}" if recipe else "")
    planned.append(_artifact("publish", f"{dataset}-{run}", spec))
    return list({artifact.path: artifact for artifact in planned}.values())


def _artifact(stage: str, name: str, spec: Spec, builders: tuple[str, ...] = ()) -> Artifact:
    return Artifact(stage, name, {"stage": stage, **spec, "code": keys.fingerprint(stage, builders)})


def _prefix(row: Row) -> str:
    """What the names of a row's artifacts begin with: rows of the same source share artifacts."""
    if isinstance(row.source, ImageFolder):
        return re.sub(r"[^A-Za-z0-9_.]+", "_", PurePath(row.source.path).name) or row.source.kind
    return row.source.kind


def _only(model: type[BaseModel], settings: BaseModel) -> Spec:
    """The settings that `model` has: what a part's bytes depend on, without how the whole is divided."""
    return settings.model_dump(include=set(model.model_fields))


def _network_builders(networks: Sequence[Network]) -> tuple[str, ...]:
    return tuple(sorted({network_names.builder(one.name) for one in networks}))


def _network(row: Row, network: Network) -> Spec:
    shape = {"classes": row.classes, "image_size": row.image_size, "channels": len(row.mean)}
    return {"name": network.name, "options": network.options, **shape}


def _pixels(row: Row) -> Spec:
    return {"image_size": row.image_size, "mean": row.mean, "std": row.std}


def _prepare_spec(row: Row) -> Spec:
    form = {"image_size": row.image_size, "channels": len(row.mean), "resize": row.resize or row.image_size}
    return {"source": row.source.model_dump(), "classes": row.classes, "storage": row.storage, **form}


def _squeeze(row: Row, backbone: Backbone, data: Artifact, seed: int) -> Artifact:
    spec: Spec = {
        "inputs": {"data": data.path},
        "network": _network(row, backbone),
        "pixels": _pixels(row),
        "weights": backbone.weights,
    }
    builders = _network_builders([backbone])
    if backbone.weights:
        spec["settings"] = _only(Compute, backbone.squeeze)
        builders += ("gvbsm.runtime.pretrained:load_pretrained",)
    else:
        spec |= {"augment": row.augment.model_dump(), "settings": backbone.squeeze.model_dump() | {"seed": seed}}
    return _artifact("squeeze", f"{_prefix(row)}-{backbone.label}", spec, builders)


def _statistics(row: Row, backbone: Backbone, data: Artifact, teacher: Artifact) -> Artifact:
    spec = {
        "inputs": {"data": data.path, "teacher": teacher.path},
        "pixels": _pixels(row),
        "augment": row.augment.model_dump(),
        "settings": _only(StatisticsPass, row.statistics),
    }
    return _artifact("statistics", f"{_prefix(row)}-{backbone.label}", spec, _network_builders([backbone]))


def image_batches(classes: int, ipc: int, group: int, batch_size: int, batching: str) -> list[list[list[int]]]:
    """Which images are optimised together: per batch a list of [class, first image, end].

    "group": `group` images of a class with those of `batch_size // group` classes; what IPC leaves over a multiple of
    `group` is a group of its own, so IPC 10 is part of IPC 50 and IPC 15 is 10 + 5. "class_major" (the published code):
    the list of all images by class, cut every `batch_size`; at IPC 10 the same, at IPC 50 batches split classes.
    """
    if batching == "class_major":
        batches = []
        for start in range(0, classes * ipc, batch_size):
            end = min(start + batch_size, classes * ipc)
            ranges = [[c, max(start - c * ipc, 0), min(end - c * ipc, ipc)] for c in range(start // ipc, -(-end // ipc))]
            batches.append(ranges)
        return batches
    together = batch_size // group
    return [
        [[c, first, min(first + group, ipc)] for c in range(block, min(block + together, classes))]
        for first in range(0, ipc, group)
        for block in range(0, classes, together)
    ]


def _recover(row: Row, ipc: int, teachers: list[Artifact], statistics: list[Artifact]) -> list[Artifact]:
    settings = row.recover
    batches = image_batches(row.classes, ipc, settings.group, settings.batch_size, settings.batching)
    precisions = [one.recover.precision if one.recover else settings.precision for one in row.backbones]
    shards = []
    for shard in _shards(batches, settings):
        spec = {
            "inputs": {"teachers": [one.path for one in teachers], "statistics": [one.path for one in statistics]},
            "batches": shard,
            "pixels": _pixels(row),
            "augment": row.augment.model_dump(),
            "settings": _only(RecoverShard, settings),
            "precisions": None if set(precisions) == {settings.precision} else precisions,
        }
        first_class, first_image, _ = shard[0][0]
        name = f"{_prefix(row)}-class{first_class:04d}-image{first_image:04d}"
        shards.append(_artifact("recover", name, spec, _network_builders(row.backbones)))
    return shards


def _shards(batches: list[list[list[int]]], settings: Recover) -> list[list[list[list[int]]]]:
    """The batches of each job. None spans two groups of images per class, so that a larger IPC only adds jobs."""
    if settings.ema.reset == "never":  # averages pass from batch to batch: one job, in the published order
        return [batches]
    groups = [batches]
    if settings.batching == "group":
        groups = [list(group) for _, group in itertools.groupby(batches, key=lambda batch: batch[0][1])]
    size = settings.shard_batches
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


def _adopt(row: Row, distilled: Distilled, ipc: int, data: Artifact) -> Artifact:
    spec = {
        "inputs": {"data": data.path},
        "path": distilled.images,
        "version": distilled.version,
        "ipc": ipc,
        "image_size": row.image_size,
        "channels": len(row.mean),
    }
    return _artifact("adopt", f"{_prefix(row)}-ipc{ipc}", spec)


def _ranges(settings: Relabel) -> list[list[int]]:
    """The labelled epochs of each job: [first, end]."""
    epochs, size = 0 if settings.online else settings.epochs, settings.shard_epochs
    return [[start, min(start + size, epochs)] for start in range(0, epochs, size)]


def _relabel(row: Row, teachers: list[Artifact], images: Spec, random: Spec | None) -> list[Artifact]:
    shards = []
    for epochs in _ranges(row.relabel):
        spec = {
            "inputs": {"teachers": [one.path for one in teachers], **images},
            "random": random,
            "epochs": epochs,
            "pixels": _pixels(row),
            "settings": _only(RelabelShard, row.relabel),
        }
        name = f"{_prefix(row)}-{'random' if random else 'distilled'}-epoch{epochs[0]:05d}"
        shards.append(_artifact("relabel", name, spec, _network_builders(row.backbones)))
    return shards


def _convert(row: Row, distilled: Distilled, images: Artifact) -> list[Artifact]:
    shards = []
    for epochs in _ranges(row.relabel):
        spec = {
            "inputs": {"images": images.path},
            "path": distilled.labels,
            "version": distilled.version,
            "seed": distilled.seed,
            "epochs": epochs,
            "coding": row.relabel.coding.model_dump(),
        }
        shards.append(_artifact("convert", f"{_prefix(row)}-epoch{epochs[0]:05d}", spec))
    return shards


def _evaluate(
    row: Row,
    student: Student,
    data: Artifact,
    images: list[Artifact],
    labels: list[Artifact],
    teachers: list[Artifact],
    random: Spec | None,
) -> Artifact:
    """Training on stored labels, beside `teachers`, or with neither on hard labels."""
    views = {"epochs": row.relabel.epochs, **_only(ViewsOfImages, row.relabel)}
    has_soft = bool(labels or teachers)
    spec = {
        "inputs": {
            "data": data.path,
            "images": [one.path for one in images],
            "labels": [one.path for one in labels],
            "teachers": [one.path for one in teachers] or None,
        },
        "random": random,
        "views": None if labels else views,
        "online": _only(TeachersLabels, row.relabel) if teachers else None,
        "network": _network(row, student),
        "pixels": _pixels(row),
        "settings": _only(Training if has_soft else HardTraining, student.evaluate),
        "seeds": row.evaluate.seeds,
    }
    kind = "distilled" if images else "random_soft" if has_soft else "random_hard"
    builders = _network_builders([student, *(row.backbones if teachers else [])])
    return _artifact("evaluate", f"{_prefix(row)}-{student.label}-{kind}", spec, builders)
