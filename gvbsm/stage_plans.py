"""The artifact of each stage, from the settings and the artifacts that it reads."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePath

from pydantic import BaseModel

from gvbsm import keys, network_names
from gvbsm.cuts import epoch_ranges, image_batches, image_shards, shown_classes
from gvbsm.planfiles import Artifact, Spec
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


def planned(stage: str, name: str, spec: Spec, builders: tuple[str, ...] = ()) -> Artifact:
    """An artifact with all that decides its bytes, the code of its stage and of the networks' `builders` included."""
    return Artifact(stage, name, {"stage": stage, **spec, "code": keys.fingerprint(stage, builders)})


def prefix(row: Row) -> str:
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


def prepare(row: Row) -> Artifact:
    """The data set."""
    form = {"image_size": row.image_size, "channels": len(row.mean), "resize": row.resize or row.image_size}
    spec = {"source": row.source.model_dump(), "classes": row.classes, "storage": row.storage, **form}
    return planned("prepare", prefix(row), spec, builders=(keys.registry("data", "DATASETS")[row.source.kind],))


def squeeze(row: Row, backbone: Backbone, data: Artifact, seed: int) -> Artifact:
    """A teacher, trained or with the weights it has."""
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
    return planned("squeeze", f"{prefix(row)}-{backbone.label}", spec, builders)


def statistics(row: Row, backbone: Backbone, data: Artifact, teacher: Artifact) -> Artifact:
    """Moments inside a teacher."""
    spec = {
        "inputs": {"data": data.path, "teacher": teacher.path},
        "pixels": _pixels(row),
        "augment": row.augment.model_dump(),
        "settings": _only(StatisticsPass, row.statistics)
        | {
            "by_class": bool(row.recover.class_statistics) or None,
            "importance": row.recover.keep is not None or None,
        },
    }
    return planned("statistics", f"{prefix(row)}-{backbone.label}", spec, _network_builders([backbone]))


def _image_shards(row: Row, ipc: int) -> list[tuple[str, list[list[list[int]]]]]:
    """Name and batches of every job that makes images."""
    settings = row.recover
    batches = image_batches(row.classes, ipc, settings.group, settings.batch_size, settings.batching)
    shards = []
    for shard in image_shards(batches, settings):
        first_class, first_image, _ = shard[0][0]
        shards.append((f"{prefix(row)}-class{first_class:04d}-image{first_image:04d}", shard))
    return shards


def select(row: Row, settings: Select, ipc: int, data: Artifact, teachers: list[Artifact]) -> list[Artifact]:
    """The real images that each shard starts from."""
    asked = teachers if settings.choose != "random" or settings.crops > 1 else []
    shards = []
    for name, shard in _image_shards(row, ipc):
        spec = {
            "inputs": {"data": data.path, "teachers": [one.path for one in asked]},
            "batches": shard,
            "pixels": _pixels(row),
            "settings": settings.model_dump(),
        }
        shards.append(planned("select", name, spec, _network_builders(row.backbones if asked else [])))
    return shards


def recover(row: Row, ipc: int, teachers: list[Artifact], statistics: list[Artifact], chosen: list[Artifact]) -> list[Artifact]:
    """One job per shard, from noise, or from the real images that were `chosen` for it."""
    settings = row.recover
    # Operations of RandAugment have no gradient to pixels.
    views = _only(ViewsOfImages, row.relabel) | {"seed": settings.seed, "rand_augment": None} if settings.views else None
    precisions = [one.recover.precision if one.recover else settings.precision for one in row.backbones]
    shards = []
    for number, (name, shard) in enumerate(_image_shards(row, ipc)):
        inputs: Spec = {"teachers": [one.path for one in teachers], "statistics": [one.path for one in statistics]}
        spec = {
            "inputs": inputs | {"start": chosen[number].path if chosen else None},
            "batches": shard,
            "pixels": _pixels(row),
            "augment": row.augment.model_dump(),
            "views": views,
            "settings": _only(RecoverShard, settings),
            "snapshots": _snapshots(row, shard),
            "precisions": None if set(precisions) == {settings.precision} else precisions,
        }
        shards.append(planned("recover", name, spec, _network_builders(row.backbones)))
    return shards


def _snapshots(row: Row, shard: list[list[list[int]]]) -> Spec | None:
    """Before which iterations a shard keeps the first image of which classes."""
    shares, iterations, shown = row.recover.snapshots, row.recover.iterations, shown_classes(row.classes)
    labels = sorted({label for batch in shard for label, first, _ in batch if first == 0 and label in shown})
    if not shares or not labels:
        return None
    return {"iterations": sorted({int(share * iterations) for share in shares}), "labels": labels}


def adopt(row: Row, distilled: Distilled, ipc: int, data: Artifact) -> Artifact:
    """Images by others."""
    spec = {
        "inputs": {"data": data.path},
        "path": distilled.images,
        "version": distilled.version,
        "ipc": ipc,
        "image_size": row.image_size,
        "channels": len(row.mean),
    }
    return planned("adopt", f"{prefix(row)}-ipc{ipc}", spec)


def _views_of(row: Row, random: Spec | None) -> Relabel:
    """Of random real images, which have no cells, views are of the whole: a quarter of one would be a worse image."""
    return row.relabel.model_copy(update={"cells": None}) if random else row.relabel


def relabel(row: Row, teachers: list[Artifact], images: Spec, random: Spec | None) -> list[Artifact]:
    """Labels of the shards in `images`, or of random images of the data set in it."""
    shards = []
    for epochs in epoch_ranges(row.labelled_epochs, row.relabel):
        spec = {
            "inputs": {"teachers": [one.path for one in teachers], **images},
            "random": random,
            "epochs": epochs,
            "pixels": _pixels(row),
            "settings": _only(RelabelShard, _views_of(row, random)),
        }
        name = f"{prefix(row)}-{'random' if random else 'distilled'}-epoch{epochs[0]:05d}"
        shards.append(planned("relabel", name, spec, _network_builders(row.backbones)))
    return shards


def convert(row: Row, distilled: Distilled, images: Artifact) -> list[Artifact]:
    """Published labels of images by others."""
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
        shards.append(planned("convert", f"{prefix(row)}-epoch{epochs[0]:05d}", spec))
    return shards


def evaluate(
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
    return planned("evaluate", f"{prefix(row)}-{student.label}-{kind}", spec, _student_builders(row, student, bool(teachers)))


def _student_builders(row: Row, student: Student, online: bool) -> tuple[str, ...]:
    return _network_builders([student, *(row.backbones if online else [])])


def first_student(row: Row, student: Student, evaluated: Artifact) -> Artifact:
    """The weights of the student of an evaluation's first seed, trained again: evaluate keeps accuracies alone."""
    spec = {name: value for name, value in evaluated.spec.items() if name not in ("stage", "code", "seeds")}
    builders = _student_builders(row, student, spec["online"] is not None)
    return planned("student", f"{prefix(row)}-{student.label}", spec | {"seed": evaluated.spec["seeds"][0]}, builders)


def features(row: Row, network: Network, weights: Artifact, data: str, images: list[str], real: Spec) -> Artifact:
    """What a teacher or a student sees in the shards `images` and in random real images."""
    spec = {
        "inputs": {"data": data, "network": weights.path, "images": images},
        "real": real,
        "shown": shown_classes(row.classes),
        "pixels": _pixels(row),
        "settings": _only(Compute, row.relabel),
    }
    role = "student" if weights.stage == "student" else "teacher"
    return planned("features", f"{prefix(row)}-{role}-{network.label}", spec, _network_builders([network]))
