"""prepare: read a data set from its source, and pack its images or list the files that they stay in.

Inputs: the source (a library, files below the data root). Output: safetensors with labels (int64) of the train and test split
and their images (uint8, N,C,S,S), or the paths, sizes and times of their files; in the metadata what identifies the classes,
their names, and the form of the images.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gvbsm.artifacts import Job
from gvbsm.data import DATASETS
from gvbsm.data.files import stamp
from gvbsm.data.raw import Files, Form
from gvbsm.errors import UserError
from gvbsm.runtime.devices import job_device


def run(job: Job) -> None:
    """Prepare the data set of a spec."""
    spec, source = job.spec, job.spec["source"]
    job.device = "cpu"
    job_device(job, 1)
    form = Form(**{name: spec[name] for name in ("image_size", "channels", "resize", "storage")})
    module, _, function = DATASETS[source["kind"]].partition(":")
    raw = getattr(import_module(module), function)(source, form, job.data_root)
    roots = {"train": source.get("train", source.get("path")), "test": source.get("val", source.get("path"))}
    raw.check(", ".join(dict.fromkeys(filter(None, roots.values()))) or source["kind"], spec["classes"])
    tensors = {
        "train_labels": raw.train_labels,
        "test_labels": raw.test_labels,
        **_images("train", raw.train_images),
        **_images("test", raw.test_images),
    }
    summary: dict[str, Any] = {"train_images": len(raw.train_labels), "test_images": len(raw.test_labels)}
    job.images = len(raw.train_labels) + len(raw.test_labels)
    if roots["train"]:
        summary["source"] = {split: _stamp(job.data_root / root) for split, root in roots.items()}
    job.classes = raw.classes
    job.write_tensors(tensors, {"class_names": raw.class_names, "roots": roots, **vars(form)}, summary)


def _stamp(root: Path) -> dict[str, Any]:
    try:
        return stamp(root)
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}; restore or remove the file") from None


def _images(split: str, images: Tensor | Files) -> dict[str, Tensor]:
    if isinstance(images, Tensor):
        return {f"{split}_images": images}
    paths = torch.frombuffer(bytearray(os.fsencode("\0".join(images.paths))), dtype=torch.uint8)
    return {f"{split}_paths": paths, f"{split}_sizes": images.sizes, f"{split}_times": images.times}
