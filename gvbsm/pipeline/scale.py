"""The scale of a run or a job: numbers of classes and images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gvbsm.store.job import Job


@dataclass(frozen=True)
class Scale:
    """Numbers that decide the work of a job; None: not known."""

    classes: int
    training_images: int | None
    distilled_images: int | None  # of all classes together


def times(count: int | None, factor: int) -> int | None:
    """The product; None if the count is not known."""
    return None if count is None else count * factor


def scale_of(job: Job[Any]) -> Scale:
    """The scale of a running job, from the receipts of the inputs that it has read."""
    classes, inputs = len(job.classes or ()), getattr(job.spec, "inputs", None)
    data, random = getattr(inputs, "data", None), getattr(job.spec, "random", None)
    images = getattr(inputs, "images", None) or []
    training = job.receipts[data]["summary"]["train_images"] if data in job.receipts else None
    if random:
        return Scale(classes, training, random.ipc * classes or None)
    paths = [images] if isinstance(images, str) else images
    read = [job.receipts[path]["summary"]["images"] for path in paths if path in job.receipts]
    return Scale(classes, training, sum(read) if len(read) == len(paths) > 0 else None)


def images_per_step(images: Callable[[Any, Scale], int | None], job: Job[Any], steps: int) -> float | None:
    """Images that a job processes in one of its steps, on average; None if unknown.

    `images` is `Stage.images`. `steps` are those of one training: a job of evaluate has one training per seed.
    """
    count = images(job.spec, scale_of(job))
    trainings = len(getattr(job.spec, "seeds", [None]))
    return count / (steps * trainings) if count and steps else None
