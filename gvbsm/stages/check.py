"""check: try every network of a run once, and count the training images of every class, before anything is trained.

Input: the data set. Output: CSV with a line per network: its name, options (JSON) and number of parameters.
"""

from __future__ import annotations

import csv
import io
import json

import torch

from gvbsm.data.image_set import check_images_per_class
from gvbsm.data.splits import open_split
from gvbsm.pipeline.check import CheckSpec
from gvbsm.runtime.devices import job_device
from gvbsm.store.job import Job
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
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["network", "options", "parameters"])
    for trial in spec.trials:
        parameters = try_network(trial.network, trial.trained_with, device)
        writer.writerow([trial.network.name, json.dumps(trial.network.options, sort_keys=True), parameters])
    job.write_table(table.getvalue(), {"networks": len(spec.trials)})
