"""adopt: read distilled images made by others, instead of recovering images.

Inputs: the data set (its classes), a folder below the data root with a folder of images per class. Output, as recover's:
safetensors with images (uint8, N,C,S,S), labels (int64) and each image's number within its class; the metadata hold the names
of the class folders by label.
"""

from __future__ import annotations

import sys

import torch

from gvbsm.data.distilled import list_images, pack
from gvbsm.data.folders import stamp_if_there
from gvbsm.pipeline.adopt import AdoptSpec
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.devices import data_device
from gvbsm.store.job import Job


def run(job: Job[AdoptSpec]) -> None:
    """Adopt the images of a spec."""
    spec = job.spec
    data_device(job)
    job.tensors(spec.inputs.data)
    root = job.data_root / spec.path
    listing = list_images(root, job.classes, spec.ipc)
    source = stamp_if_there(root, read="all")
    count, size = len(listing.labels), spec.image_size
    checkpoint = Checkpoint.of(job)
    images = checkpoint.tensor("images", (count, spec.channels, size, size), torch.uint8)
    resized = pack(listing, images)
    if resized:
        sys.stderr.write(f"adopt: {resized} of {count} images are not {size} x {size} px: resized and cut\n")
    tensors = {"images": images, "labels": listing.labels, "numbers": listing.numbers}
    job.images = count
    job.write_tensors(tensors, {"folders": listing.folders}, {"images": count, "resized": resized, "source": source})
    checkpoint.clear()
