"""features: confidence, diversity and features of a teacher or a student on distilled and on random real images.

Inputs: the data set (training split), the network, the distilled images. Output: safetensors with, for each of `distilled`
and `real`: `_labels` (int64, N), `_confidence` (float32, N; probability of the true class), `_diversity` (float64, K; mean
cosine distance of the features of two images of a class, NaN if the class has one image). For the n images of the classes that
are shown: `_shown` (float32, n,F; features, the input of the last linear layer) with `_shown_labels` (int64, n).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from gvbsm.data.image_set import load_image_set, random_choice
from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import open_split
from gvbsm.method.diversity import mean_cosine_distance
from gvbsm.pipeline.features import FeaturesSpec
from gvbsm.runtime.devices import job_device
from gvbsm.runtime.progress import Progress
from gvbsm.store.job import Job
from gvbsm.training.networks import features_of, load_teacher

_AT_ONCE = 100  # images


@torch.inference_mode()
def run(job: Job[FeaturesSpec]) -> None:
    """Measure the images of a spec."""
    spec, precision = job.spec, job.spec.settings.precision
    device = job_device(job, spec.settings.threads)
    pixels = Pixels(spec.pixels, device)
    distilled = load_image_set(job, spec.inputs.images)
    train = open_split(job, spec.inputs.data, "train", torch.device("cpu"))
    chosen = random_choice(train.labels, spec.real.per_class, spec.real.seed)
    network = load_teacher(*job.tensors(spec.inputs.network), device, precision)
    index = torch.arange(len(distilled.labels)).split(_AT_ONCE)
    sets = {
        "distilled": (distilled.labels, (distilled[part] for part in index)),
        "real": (train.labels[chosen], train.whole_images(chosen.split(_AT_ONCE))),
    }
    job.images = sum(len(labels) for labels, _ in sets.values())
    progress = Progress(job.title, -(-len(distilled.labels) // _AT_ONCE) + -(-len(chosen) // _AT_ONCE))
    tensors: dict[str, Tensor] = {}
    for kind, (labels, batches) in sets.items():
        measures = _measure(network, labels, batches, pixels, precision, len(job.classes or ()), spec.shown, progress)
        tensors |= {f"{kind}_{name}": tensor for name, tensor in measures.items()}
    summary = {kind: {"images": len(labels)} for kind, (labels, _) in sets.items()}
    job.write_tensors(tensors, {}, summary)


def _measure(
    network: nn.Module,
    labels_N: Tensor,
    batches: Iterable[Tensor],
    pixels: Pixels,
    precision: str,
    classes: int,
    shown: list[int],
    progress: Progress,
) -> dict[str, Tensor]:
    """The measures of labelled images, given as uint8 batches (B,C,S,S)."""
    confidence, features, at = [], [], 0
    for images_BCHW in batches:
        x_BCHW = pixels.from_bytes(images_BCHW.to(pixels.device)).contiguous(memory_format=torch.channels_last)
        logits_BK, features_BF = features_of(network, x_BCHW, precision)
        labels_B = labels_N[at : at + len(images_BCHW)]
        at += len(images_BCHW)
        confidence.append(logits_BK.softmax(1).cpu()[torch.arange(len(labels_B)), labels_B])
        features.append(features_BF.cpu())
        progress.step()
    features_NF, is_shown = torch.cat(features), torch.isin(labels_N, torch.tensor(shown))
    return {
        "labels": labels_N,
        "confidence": torch.cat(confidence),
        "diversity": mean_cosine_distance(features_NF, labels_N, classes),
        "shown": features_NF[is_shown],
        "shown_labels": labels_N[is_shown],
    }
