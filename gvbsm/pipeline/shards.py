"""Shards: how the images and the labels of a target are divided into jobs."""

from __future__ import annotations

import itertools

from gvbsm.config.images import Recover
from gvbsm.config.labels import Relabel
from gvbsm.config.row import Row
from gvbsm.config.shapes import Batch, Span
from gvbsm.pipeline.stage import prefix

_MOST_SHOWN = 10  # classes that a picture tells apart by colour


def image_batches(classes: int, ipc: int, group: int, batch_size: int, batching: str) -> list[Batch]:
    """Which images are optimised together: per batch a list of [class, first image, end).

    "group": a batch has the same `group` images of as many classes as `batch_size` has room for. If IPC is no multiple of
    `group`, the last group is smaller: with groups of 10, IPC 10 is part of IPC 50, and IPC 15 is 10 + 5. "class_major" (the
    published code): all images in the order of classes, cut every `batch_size`. With groups of 10 the two agree at IPC 10; at
    IPC 50, batches of "class_major" split classes.
    """
    if batching == "class_major":
        batches = []
        for start in range(0, classes * ipc, batch_size):
            end = min(start + batch_size, classes * ipc)
            ranges = [[c, max(start - c * ipc, 0), min(end - c * ipc, ipc)] for c in range(start // ipc, -(-end // ipc))]
            batches.append(ranges)
        return batches
    batches = []
    for first in range(0, ipc, group):
        end = min(first + group, ipc)
        together = batch_size // (end - first)  # classes per batch
        for start in range(0, classes, together):
            batches.append([[c, first, end] for c in range(start, min(start + together, classes))])
    return batches


def row_shards(row: Row, ipc: int) -> list[tuple[str, list[Batch]]]:
    """Name and batches of every job that makes images of a row."""
    settings = row.recover
    batches = image_batches(row.classes, ipc, settings.group, settings.batch_size, settings.batching)
    shards = []
    for shard in image_shards(batches, settings):
        first_class, first_image, _ = shard[0][0]
        shards.append((f"{prefix(row)}-class{first_class:04d}-image{first_image:04d}", shard))
    return shards


def image_shards(batches: list[Batch], settings: Recover) -> list[list[Batch]]:
    """The batches of each job. A job never has two groups of images per class, so that a larger IPC only adds jobs."""
    if settings.ema.reset == "never":  # averages pass from batch to batch: one job, in the published order
        return [batches]
    groups = [batches]
    if settings.batching == "group":
        groups = [list(group) for _, group in itertools.groupby(batches, key=lambda batch: batch[0][1])]
    size = settings.shard_batches
    return [group[start : start + size] for group in groups for start in range(0, len(group), size)]


def epoch_ranges(epochs: int, settings: Relabel) -> list[Span]:
    """The labelled epochs of each job: [first, end); no jobs if labels are made online."""
    epochs, size = 0 if settings.online else epochs, settings.shard_epochs
    return [[start, min(start + size, epochs)] for start in range(0, epochs, size)]


def shown_classes(classes: int) -> list[int]:
    """The labels of the classes that pictures show: all, or ten that are spread evenly."""
    return list(range(classes)) if classes <= _MOST_SHOWN else [n * classes // _MOST_SHOWN for n in range(_MOST_SHOWN)]
