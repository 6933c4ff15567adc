"""prepare: read a data set from its source and pack it.

Inputs: the source (a library, files below the data root). Output: safetensors with train and test images (uint8, N,C,S,S)
and labels (int64), class names in the metadata.
"""

from __future__ import annotations

from importlib import import_module

from gvbsm.artifacts import Job
from gvbsm.data import DATASETS
from gvbsm.runtime.devices import job_device


def run(job: Job) -> None:
    """Pack the data set of a spec."""
    spec = job.spec
    job.device = "cpu"
    job_device(job, 1)
    module, _, function = DATASETS[spec["source"]["kind"]].partition(":")
    shape = {name: spec[name] for name in ("classes", "image_size", "channels")}
    raw = getattr(import_module(module), function)(spec["source"], **shape, data_root=job.data_root)
    raw.check(spec["source"].get("path", spec["source"]["kind"]), spec["classes"])
    tensors = {
        "train_images": raw.train_images,
        "train_labels": raw.train_labels,
        "test_images": raw.test_images,
        "test_labels": raw.test_labels,
    }
    summary = {"train_images": len(raw.train_labels), "test_images": len(raw.test_labels)}
    job.write_tensors(tensors, {"class_names": raw.class_names}, summary)
