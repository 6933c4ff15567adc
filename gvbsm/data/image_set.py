"""The small image sets that are labelled and trained on: distilled ones, or as many random real ones."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gvbsm.artifacts import Job
from gvbsm.data.splits import open_split
from gvbsm.errors import UserError
from gvbsm.keys import derive_seed

_READ_BATCH = 100  # images


def load_image_set(job: Job) -> tuple[Tensor, Tensor]:
    """uint8 images (N,C,S,S) and labels (N,), by class and number, of a spec that names shards or asks for random images.

    Raises:
        UserError: if a class has fewer training images than asked for.
    """
    random = job.spec.get("random")
    if random:
        train = open_split(job, "train", torch.device("cpu"))
        chosen = random_choice(train.labels, **random)
        return _together(train.squares(chosen.split(_READ_BATCH)), len(chosen)), train.labels[chosen]
    shards = [job.tensors(path)[0] for path in job.spec["inputs"]["images"]]
    labels, numbers = (torch.cat([shard[name] for shard in shards]) for name in ("labels", "numbers"))
    order = torch.argsort(labels * (int(numbers.max()) + 1) + numbers)
    place = torch.argsort(order).split([len(shard["labels"]) for shard in shards])
    images = torch.empty(len(labels), *shards[0]["images"].shape[1:], dtype=torch.uint8)
    for shard, index in zip(shards, place, strict=True):  # one copy alone: a large set is many gigabytes
        images[index] = shard["images"]
    return images, labels[order]


def _together(batches: Iterator[Tensor], count: int) -> Tensor:
    """Batches of images in one tensor of `count`, without a second copy of all."""
    images, at = torch.empty(0), 0
    for batch in batches:
        if not at:
            images = torch.empty(count, *batch.shape[1:], dtype=batch.dtype)
        images[at : at + len(batch)] = batch
        at += len(batch)
    return images


def random_choice(labels_N: Tensor, ipc: int, seed: int) -> Tensor:
    """Indices of `ipc` images of every class, drawn without replacement; those of IPC 10 are the first ten of IPC 50's.

    Raises:
        UserError: if a class has fewer.
    """
    chosen = []
    for label in range(int(labels_N.max()) + 1):
        members = (labels_N == label).nonzero().squeeze(1)
        if len(members) < ipc:
            raise UserError(
                f"random baseline: expected at least IPC ({ipc}) training images in every class, got {len(members)} in "
                f"class {label}; ask for a smaller IPC"
            )
        generator = torch.Generator().manual_seed(derive_seed(seed, "random images", label))
        chosen.append(members[torch.randperm(len(members), generator=generator)[:ipc]])
    return torch.cat(chosen)
