"""squeeze: train one teacher on the full set with cross-entropy.

Input: the packed data set. Output: safetensors with the teacher's state dict, its network in the metadata, its test
accuracy in the receipt.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gvbsm.artifacts import Job
from gvbsm.data.pixels import Pixels, augmentation
from gvbsm.keys import derive_seed
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.devices import autocast, job_device
from gvbsm.runtime.networks import accuracy, build
from gvbsm.runtime.training import Recipe, fit, split_batches


def run(job: Job) -> None:
    """Train the teacher of a spec."""
    settings = job.spec["settings"]
    device = job_device(job, settings["threads"])
    data, _ = job.tensors(job.spec["inputs"]["data"])
    images, labels = data["train_images"].to(device), data["train_labels"].to(device)
    pixels = Pixels(job.spec["pixels"], device)
    augment = augmentation(job.spec["augment"], job.spec["pixels"]["image_size"], same_on_batch=False)
    model = build(job.spec["network"], settings["seed"], device)
    recipe = Recipe.from_settings(settings, settings["seed"], settings.get("keep_epoch"))

    def batches(epoch: int) -> Sequence[Tensor]:
        generator = torch.Generator().manual_seed(derive_seed(settings["seed"], "epoch", epoch))
        return split_batches(torch.randperm(len(labels), generator=generator), settings["batch_size"])

    def losses(model: nn.Module, batch: Tensor) -> Iterator[Tensor]:
        index = batch.to(device)
        x_BCHW = pixels.normalise(augment(images[index].float() / 255))
        with autocast(device, settings["precision"]):
            logits_BK = model(x_BCHW.contiguous(memory_format=torch.channels_last))
        yield F.cross_entropy(logits_BK.float(), labels[index])

    checkpoint = Checkpoint(job.checkpoints, job.checkpoint_seconds)
    history = fit(model, recipe, batches, losses, checkpoint, job.title)
    test = accuracy(model, data["test_images"], data["test_labels"], pixels.from_bytes, settings["precision"])
    summary = {**test, "loss": history[-1]["loss"], "epochs": len(history)}
    job.write_tensors(model.state_dict(), {"network": job.spec["network"]}, summary)
    checkpoint.clear()
