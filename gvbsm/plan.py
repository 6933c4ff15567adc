"""From settings to the artifacts of one target: every spec, and so every key and path, before anything runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

from pydantic import BaseModel

from gvbsm import keys, network_names
from gvbsm.cuts import epoch_ranges, image_batches, image_shards
from gvbsm.planfiles import Artifact, Spec
from gvbsm.rows import load_row
from gvbsm.settings import Backbone, Network, Row, Student
from gvbsm.sources import ImageFolder
from gvbsm.stage_settings import (
    Compute,
    Distilled,
    HardTraining,
    RecoverShard,
    Relabel,
    RelabelShard,
    Select,
    StatisticsPass,
    TeachersLabels,
    Training,
    ViewsOfImages,
)


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
        if row.distilled or not row.recover.iterations:
            continue
        measured = teacher
        if row.statistics.measured_in == "twin" and backbone.weights is None:
            measured = _squeeze(row, backbone, data, backbone.squeeze.seed + 1)
            planned.append(measured)
        statistics.append(_statistics(row, backbone, data, measured))
    planned += teachers + statistics
    random = {"ipc": ipc, "seed": row.evaluate.random_seed}
    if row.distilled:
        images = [_adopt(row, row.distilled, ipc, data)]
    else:
        chosen = _select(row, row.select, ipc, data, teachers) if row.select else []
        planned += chosen
        images = _recover(row, ipc, teachers, statistics, chosen) if row.recover.iterations else chosen
    if row.distilled and row.distilled.labels:
        labels = _convert(row, row.distilled, images[0])
    else:
        labels = _relabel(row, teachers, {"images": [image.path for image in images]}, None)
    has_random_soft = "random_soft" in row.evaluate.baselines
    random_labels = _relabel(row, teachers, {"data": data.path}, random) if has_random_soft else []
    planned += images + labels + random_labels
    beside = teachers if row.relabel.online else []
    runs: dict[str, dict[str, Artifact]] = {}
    for student in row.evaluate.students:
        sets = {
            "distilled": (images, labels, beside, None),
            "random_soft": ([], random_labels, beside, random),
            "random_hard": ([], [], [], random),
            "distilled_hard": (images, [], [], None),
        }
        wanted = ["distilled", *row.evaluate.baselines]
        runs[student.label] = {kind: _evaluate(row, student, kind, data, *sets[kind]) for kind in wanted}
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
        "settings": _only(StatisticsPass, row.statistics)
        | {
            "by_class": row.recover.class_statistics is not None or None,
            "importance": row.recover.keep is not None or None,
        },
    }
    return _artifact("statistics", f"{_prefix(row)}-{backbone.label}", spec, _network_builders([backbone]))


def _image_shards(row: Row, ipc: int) -> list[tuple[str, list[list[list[int]]]]]:
    """Name and batches of every job that makes images."""
    settings = row.recover
    batches = image_batches(row.classes, ipc, settings.group, settings.batch_size, settings.batching)
    shards = []
    for shard in image_shards(batches, settings):
        first_class, first_image, _ = shard[0][0]
        shards.append((f"{_prefix(row)}-class{first_class:04d}-image{first_image:04d}", shard))
    return shards


def _select(row: Row, settings: Select, ipc: int, data: Artifact, teachers: list[Artifact]) -> list[Artifact]:
    asked = teachers if settings.choose != "random" or settings.crops > 1 else []
    shards = []
    for name, shard in _image_shards(row, ipc):
        spec = {
            "inputs": {"data": data.path, "teachers": [one.path for one in asked]},
            "batches": shard,
            "pixels": _pixels(row),
            "settings": settings.model_dump(),
        }
        shards.append(_artifact("select", name, spec, _network_builders(row.backbones if asked else [])))
    return shards


def _recover(
    row: Row, ipc: int, teachers: list[Artifact], statistics: list[Artifact], chosen: list[Artifact]
) -> list[Artifact]:
    """One job per shard, from noise, or from the real images that were `chosen` for it."""
    settings = row.recover
    precisions = [one.recover.precision if one.recover else settings.precision for one in row.backbones]
    shards = []
    for number, (name, shard) in enumerate(_image_shards(row, ipc)):
        inputs: Spec = {"teachers": [one.path for one in teachers], "statistics": [one.path for one in statistics]}
        spec = {
            "inputs": inputs | {"start": chosen[number].path if chosen else None},
            "batches": shard,
            "pixels": _pixels(row),
            "augment": row.augment.model_dump(),
            "settings": _only(RecoverShard, settings),
            "precisions": None if set(precisions) == {settings.precision} else precisions,
        }
        shards.append(_artifact("recover", name, spec, _network_builders(row.backbones)))
    return shards


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


def _views_of(row: Row, random: Spec | None) -> Relabel:
    """Of random real images, which have no cells, views are of the whole: a quarter of one would be a worse image."""
    return row.relabel.model_copy(update={"cells": None}) if random else row.relabel


def _relabel(row: Row, teachers: list[Artifact], images: Spec, random: Spec | None) -> list[Artifact]:
    shards = []
    for epochs in epoch_ranges(row.labelled_epochs, row.relabel):
        spec = {
            "inputs": {"teachers": [one.path for one in teachers], **images},
            "random": random,
            "epochs": epochs,
            "pixels": _pixels(row),
            "settings": _only(RelabelShard, _views_of(row, random)),
        }
        name = f"{_prefix(row)}-{'random' if random else 'distilled'}-epoch{epochs[0]:05d}"
        shards.append(_artifact("relabel", name, spec, _network_builders(row.backbones)))
    return shards


def _convert(row: Row, distilled: Distilled, images: Artifact) -> list[Artifact]:
    shards = []
    for epochs in epoch_ranges(row.labelled_epochs, row.relabel):
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
    kind: str,
    data: Artifact,
    images: list[Artifact],
    labels: list[Artifact],
    teachers: list[Artifact],
    random: Spec | None,
) -> Artifact:
    """Training on stored labels, beside `teachers`, or with neither on hard labels."""
    views = {"epochs": row.labelled_epochs, **_only(ViewsOfImages, _views_of(row, random))}
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
    builders = _network_builders([student, *(row.backbones if teachers else [])])
    return _artifact("evaluate", f"{_prefix(row)}-{student.label}-{kind}", spec, builders)
