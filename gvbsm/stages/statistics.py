"""statistics: one pass over the augmented training set for the moments of every Conv layer's input (GSM).

Inputs: the packed data set, a teacher. Output: safetensors with `<layer>/<moment>` in float64.
"""

from __future__ import annotations

import torch

from gvbsm.artifacts import Job
from gvbsm.data.pixels import Pixels, augmentation
from gvbsm.keys import derive_seed
from gvbsm.method.matching import hooked_layers
from gvbsm.method.moments import Accumulator, moments
from gvbsm.runtime.devices import autocast, job_device
from gvbsm.runtime.networks import load_teacher
from gvbsm.runtime.progress import Progress


@torch.inference_mode()
def run(job: Job) -> None:
    """Measure the statistics of a spec."""
    settings = job.spec["settings"]
    device = job_device(job, settings["threads"])
    data, _ = job.tensors(job.spec["inputs"]["data"])
    teacher = load_teacher(*job.tensors(job.spec["inputs"]["teacher"]), device)
    images = data["train_images"].to(device)
    pixels = Pixels(job.spec["pixels"], device)
    augment = augmentation(job.spec["augment"], job.spec["pixels"]["image_size"], same_on_batch=False)
    found = {name: Accumulator(settings["variance"]) for name in hooked_layers(teacher, ("conv",))}
    for name, module in hooked_layers(teacher, ("conv",)).items():
        module.register_forward_pre_hook(
            lambda _, x, name=name: found[name].add(moments(x[0], ("channel", "patch"), settings["patch_size"]), len(x[0]))
        )
    batches = images.split(settings["batch_size"])
    progress = Progress(job.title, len(batches))
    for step, batch in enumerate(batches):
        torch.manual_seed(derive_seed(settings["seed"], "step", step))
        x_BCHW = pixels.normalise(augment(batch.float() / 255))
        with autocast(device, settings["precision"]):
            teacher(x_BCHW.contiguous(memory_format=torch.channels_last))
        progress.step()
    tensors = {f"{layer}/{kind}": value for layer, one in found.items() for kind, value in one.result().items()}
    job.write_tensors(tensors, {"patch_size": settings["patch_size"]}, {"layers": len(found), "images": len(images)})
