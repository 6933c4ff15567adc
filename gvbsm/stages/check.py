"""check: try every network of a run once, load given weights, and count the training images, before anything is trained.

Inputs: the data set, the files that a row names. Output: CSV with a line per network: its name, options (JSON) and number of
parameters.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
from collections.abc import Iterator

import torch

from gvbsm.data.folders import is_there
from gvbsm.data.image_set import check_images_per_class
from gvbsm.data.splits import open_split
from gvbsm.errors import UserError
from gvbsm.method.layers import hooked_layers
from gvbsm.pipeline.check import CheckSpec, Given, Matched
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
        check_images_per_class(labels, classes, spec.candidates, "select", remedy)
    if spec.random_images:
        remedy = "ask for fewer images per class, or set evaluate.baselines to []"
        check_images_per_class(labels, classes, spec.random_images, "random baselines", remedy)
    for files in spec.files:
        path = job.data_root / files.path
        if _is_read(job, files) and not is_there(path):
            raise UserError(
                f"{files.written}: expected a folder or an archive, got nothing at {path}; put it there, or correct the path"
            )
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["network", "options", "parameters"])
    for trial in spec.trials:
        with _naming(trial.written):
            parameters = try_network(trial.network, trial.trained_with, device)
        writer.writerow([trial.network.name, json.dumps(trial.network.options, sort_keys=True), parameters])
    for given in spec.weights:
        if _is_read(job, given):
            with _naming(given.written):
                check_weights(given.network, given.weights, job.data_root, classes, given.pixels)
    for matched in spec.matched:
        _check_layers(matched, device)
    job.write_table(table.getvalue(), {"networks": len(spec.trials)})


def _is_read(job: Job[CheckSpec], given: Given) -> bool:
    """Whether an artifact is still to be made from what is given."""
    return not all((job.store / artifact).exists() for artifact in given.artifacts)


@contextlib.contextmanager
def _naming(written: str) -> Iterator[None]:
    """Errors name the file and the entry at which something was written."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{written}: {error}") from None


def _check_layers(matched: Matched, device: torch.device) -> None:
    model = build(matched.network, 0, device)
    if hooked_layers(model, tuple(matched.layers)):
        return
    others = [kind for kind in ("batchnorm", "conv") if hooked_layers(model, (kind,))]
    remedy = f"add {others[0]}" if others else "set recover.statistics_weight to 0"
    raise UserError(
        f"{matched.written}: expected layers of {', '.join(matched.layers)} in {matched.teacher}, got none; {remedy}, or leave "
        "this teacher out"
    )
