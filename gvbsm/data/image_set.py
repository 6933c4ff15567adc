"""The small image sets that are labelled and trained on: distilled ones, or as many random real ones."""

from __future__ import annotations

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
        return torch.cat(list(train.squares(chosen.split(_READ_BATCH)))), train.labels[chosen]
    shards = [job.tensors(path)[0] for path in job.spec["inputs"]["images"]]
    whole = {name: torch.cat([shard[name] for shard in shards]) for name in ("images", "labels", "numbers")}
    order = torch.argsort(whole["labels"] * (int(whole["numbers"].max()) + 1) + whole["numbers"])
    return whole["images"][order], whole["labels"][order]


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
