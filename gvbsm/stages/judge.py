"""judge: the share of distilled images that a network, which had no part in them, assigns to their class.

Inputs: the network, the distilled images. Output: CSV with a line per class: its label, its number of images, those assigned to
it, and the mean probability of the class on them. The receipt has the share of all, and the network's own test accuracy.
"""

from __future__ import annotations

import pandas as pd
import torch
from torch.nn import functional as F

from gvbsm.data.image_set import load_image_set
from gvbsm.data.pixels import Pixels
from gvbsm.pipeline.judge import JudgeSpec
from gvbsm.runtime.devices import job_device
from gvbsm.store.job import Job
from gvbsm.training.networks import load_teacher, logits_of

_AT_ONCE = 100  # images


@torch.inference_mode()
def run(job: Job[JudgeSpec]) -> None:
    """Judge the images of a spec."""
    spec, precision = job.spec, job.spec.settings.precision
    device = job_device(job, spec.settings.threads)
    pixels = Pixels(spec.pixels, device)
    network = load_teacher(*job.tensors(spec.inputs.network), device, precision)
    images = load_image_set(job, spec.inputs.images)
    classes, logits = len(job.classes or ()), []
    for index in torch.arange(len(images.labels)).split(_AT_ONCE):
        x_BCHW = pixels.from_bytes(images[index].to(device)).contiguous(memory_format=torch.channels_last)
        logits.append(logits_of([network], x_BCHW, precision)[0].cpu())
    logits_NK, labels_N = torch.cat(logits), images.labels
    right_N = logits_NK.argmax(1) == labels_N
    probability_N = F.softmax(logits_NK.double(), 1).gather(1, labels_N.unsqueeze(1)).squeeze(1)
    count_K = torch.bincount(labels_N, minlength=classes)
    table = pd.DataFrame(
        {
            "label": range(classes),
            "images": count_K,
            "assigned": torch.bincount(labels_N[right_N], minlength=classes),
            "probability": torch.bincount(labels_N, probability_N, classes) / count_K,
        }
    )
    job.images = len(labels_N)
    test = job.receipt(spec.inputs.network)["summary"]["top1"]
    job.write_table(table.to_csv(index=False), {"assigned": 100 * float(right_N.double().mean()), "top1": test})
