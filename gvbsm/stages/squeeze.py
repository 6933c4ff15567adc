"""squeeze: train one teacher on the full set with cross-entropy, or take it with the weights it has.

Input: the data set. Output: safetensors with the teacher's state dict, its network in the metadata, its test accuracy in the
receipt.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gvbsm.artifacts import Job
from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import open_split
from gvbsm.keys import derive_seed
from gvbsm.method.transfer import sent
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.devices import autocast, job_device
from gvbsm.runtime.networks import accuracy, build
from gvbsm.runtime.parallel import ranks
from gvbsm.runtime.training import Recipe, fit, split_batches

Batch = tuple[Tensor, Tensor]  # this rank's part of the images (P,C,S,S) in 0..1, all labels (B,), on the device


def run(job: Job) -> None:
    """Train or load the teacher of a spec, and test it."""
    spec, settings = job.spec, job.spec["settings"]
    device = job_device(job, settings["threads"])
    pixels = Pixels(spec["pixels"], device)
    checkpoint = Checkpoint.of(job)
    test = open_split(job, "test", device)
    summary = {}
    if spec.get("weights"):
        # Not imported above: the code of a teacher that is trained does not depend on it.
        load_pretrained = import_module("gvbsm.runtime.pretrained").load_pretrained
        model = load_pretrained(spec["network"], spec["weights"], job.data_root, device, job.classes or [])
    else:
        model = build(spec["network"], settings["seed"], device)
        history = _train(job, model, pixels, checkpoint, device)
        summary = {"loss": history[-1]["loss"], "epochs": len(history)}
    found = accuracy(model, test.squares, test.labels, pixels.from_bytes, settings["precision"])
    summary |= {"top1": found.top1, "top5": found.top5}
    job.write_tensors(model.state_dict(), {"network": spec["network"]}, summary)
    checkpoint.clear()


def _train(job: Job, model: nn.Module, pixels: Pixels, checkpoint: Checkpoint, device: torch.device) -> list[dict[str, float]]:
    settings = job.spec["settings"]
    train = open_split(job, "train", device, job.spec["augment"])
    together = ranks()

    def batches(epoch: int, first: int) -> Iterator[Batch]:
        generator = torch.Generator().manual_seed(derive_seed(settings["seed"], "epoch", epoch))
        order = split_batches(torch.randperm(len(train.labels), generator=generator), settings["batch_size"])
        todo = [(index, derive_seed(settings["seed"], "augment", epoch, step)) for step, index in enumerate(order)][first:]
        for (index, _), unit_PCHW in zip(todo, train.augmented(todo, together.part), strict=True):
            yield unit_PCHW, sent(train.labels[index], device)

    def losses(model: nn.Module, batch: Batch) -> Iterator[Tensor]:
        unit_PCHW, labels_B = batch
        x_PCHW = pixels.normalise(unit_PCHW).contiguous(memory_format=torch.channels_last)
        with autocast(device, settings["precision"]):
            logits_PK = model(x_PCHW)
        yield F.cross_entropy(together.whole(logits_PK.float(), len(labels_B)), labels_B)

    recipe = Recipe.from_settings(settings, settings["seed"], settings.get("keep_epoch"))
    history = fit(model, recipe, batches, losses, checkpoint, job.title)
    job.images = len(history) * len(train.labels)
    return history
