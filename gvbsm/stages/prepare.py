"""prepare: read a data set from its source, and pack its images or list their files.

Inputs: the source (a library, files below the data root). Output: safetensors with labels (int64) of the train and test split
and their images (uint8, N,C,S,S), or the paths, sizes and times of their files; the metadata hold the
identifiers and names of the classes, and the form of the images.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor

from gvbsm.data import DATASETS
from gvbsm.data.folders import Stamp, content, is_image, is_visible, sample, stamp_if_there
from gvbsm.data.raw import Files, Form
from gvbsm.errors import UserError
from gvbsm.pipeline.prepare import PrepareSpec
from gvbsm.pipeline.rows import naming
from gvbsm.runtime.devices import data_device
from gvbsm.store.job import Job
from gvbsm.store.spec import Json

_ENDINGS = 5  # largest number of endings in a message


def run(job: Job[PrepareSpec]) -> None:
    """Prepare the data set of a spec."""
    spec, source = job.spec, job.spec.source.model_dump()
    data_device(job)
    form = Form(spec.image_size, spec.channels, spec.resize, spec.storage)
    module, _, function = DATASETS[spec.source.kind].partition(":")
    roots = {"train": source.get("train", source.get("path")), "test": source.get("val", source.get("path"))}
    watched = roots | {"ground_truth": source.get("ground_truth")}
    before = _stamps(job, watched)
    with naming(spec, "source"):
        raw = getattr(import_module(module), function)(spec.source, form, job.data_root)
    if raw.left_out:
        endings = ", ".join(raw.left_out[:_ENDINGS])
        sys.stderr.write(f"prepare: {job.data_root / str(roots['train'])}: left out, by their endings no images: {endings}\n")
    with naming(spec, "classes"):
        raw.check(", ".join(dict.fromkeys(filter(None, roots.values()))) or spec.source.kind, spec.classes)
    tensors = {
        "train_labels": raw.train_labels,
        "test_labels": raw.test_labels,
        **_images("train", raw.train_images),
        **_images("test", raw.test_images),
    }
    summary: Json = {"train_images": len(raw.train_labels), "test_images": len(raw.test_labels)}
    job.images = len(raw.train_labels) + len(raw.test_labels)
    if roots["train"]:
        summary["source"] = _stamps(job, watched)
        for part, now in summary["source"].items():
            if before.get(part, now) != now:
                raise UserError(f"{job.data_root / str(watched[part])}: changed while it was read; run the same command again")
        _add_contents(job, watched, summary["source"], spec.storage)
    job.classes = raw.classes
    job.write_tensors(tensors, {"class_names": raw.class_names, "roots": roots, **form.as_json()}, summary)


def _stamps(job: Job[PrepareSpec], watched: dict[str, str | None]) -> dict[str, Stamp]:
    """The stamps of the folders or archives of the splits and of the ground truth, without those that do not exist."""
    files = {root: is_visible if part == "ground_truth" else is_image for part, root in watched.items() if root}
    # One stamp per folder: most folders hold both splits.
    stamps = {root: stamp_if_there(job.data_root / root, counts) for root, counts in files.items()}
    return {part: stamp for part, root in watched.items() if root and (stamp := stamps[root])}


def _add_contents(job: Job[PrepareSpec], watched: dict[str, str | None], stamps: dict[str, Stamp], storage: str) -> None:
    """Add the hashes of what was read. Of images that stay in their files, a sample was."""
    of_images: dict[Path, str] = {}
    for part, now in stamps.items():
        root = job.data_root / str(watched[part])
        if part == "ground_truth":
            now["content"] = content(root, is_visible)
            continue
        of_images[root] = of_images.get(root) or (content if storage == "packed" else sample)(root)
        now["content" if storage == "packed" else "sample"] = of_images[root]


def _images(split: str, images: Tensor | Files) -> dict[str, Tensor]:
    if isinstance(images, Tensor):
        return {f"{split}_images": images}
    paths = torch.frombuffer(bytearray(os.fsencode("\0".join(images.paths))), dtype=torch.uint8)
    return {f"{split}_paths": paths, f"{split}_sizes": images.sizes, f"{split}_times": images.times}
