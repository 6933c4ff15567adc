"""check: try every network of a run once, load given weights, and count the training images, before anything is trained.

Inputs: the data set, the files that a row names. Output: CSV with a line per network: its name, options (JSON) and number of
parameters.
"""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import torch

from gvbsm.config.shapes import NetworkShape
from gvbsm.data.folders import is_there
from gvbsm.data.image_set import check_images_per_class
from gvbsm.data.splits import open_split
from gvbsm.errors import UserError
from gvbsm.method.layers import hooked_layers
from gvbsm.pipeline.check import CheckSpec, Given
from gvbsm.pipeline.rows import naming
from gvbsm.runtime.devices import job_device
from gvbsm.store.job import Job
from gvbsm.training.networks import build
from gvbsm.training.pretrained import check_weights
from gvbsm.training.trial import try_network


def run(job: Job[CheckSpec]) -> None:
    """Check the run of a spec."""
    spec = job.spec
    job.device = "cpu"  # a pass of two images takes less time there than a device takes to start
    device = job_device(job, 1)
    labels = open_split(job, spec.inputs.data, "train", torch.device("cpu")).labels
    classes = job.classes or []
    if spec.candidates:
        remedy = "lower select.candidates or select.cells, or ask for fewer images per class"
        with naming(spec, "select"):
            check_images_per_class(labels, classes, spec.candidates, "select", remedy)
    if spec.random_images:
        remedy = "ask for fewer images per class, or set evaluate.baselines to []"
        with naming(spec, "evaluate", "baselines"):
            check_images_per_class(labels, classes, spec.random_images, "random baselines", remedy)
    for files in spec.files or []:
        if _is_read(job, files):
            with naming(spec, *files.setting.split(".")):
                _check_there(job.data_root / files.path)
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["network", "options", "parameters"])
    for trial in spec.trials:
        with naming(spec, *trial.section.split(".")):
            parameters = try_network(trial.network, trial.trained_with, device)
        writer.writerow([trial.network.name, json.dumps(trial.network.options, sort_keys=True), parameters])
    for given in spec.weights or []:
        if _is_read(job, given):
            with naming(spec, given.section):
                check_weights(given.network, given.weights, job.data_root, classes, given.pixels)
    if spec.matched:
        with naming(spec, "recover", "layers"):
            for teacher in spec.matched.teachers:
                _check_layers(teacher, tuple(spec.matched.layers), device)
    job.write_table(table.getvalue(), {"networks": len(spec.trials)})


def _is_read(job: Job[CheckSpec], given: Given) -> bool:
    """Whether an artifact is still to be made from what is given."""
    return not all((job.store / artifact).exists() for artifact in given.artifacts)


def _check_there(path: Path) -> None:
    if not is_there(path):
        raise UserError(f"{path}: expected a folder or an archive, got nothing there; put it there, or correct the path")


def _check_layers(teacher: NetworkShape, layers: tuple[str, ...], device: torch.device) -> None:
    model = build(teacher, 0, device)
    if not hooked_layers(model, layers):
        others = [kind for kind in ("batchnorm", "conv") if hooked_layers(model, (kind,))]
        remedy = f"add {others[0]}" if others else "set recover.statistics_weight to 0"
        got = f"expected layers of {', '.join(layers)} to match in {teacher.name}, got none"
        raise UserError(f"{got}; {remedy}, or leave this teacher out")
