"""statistics: one pass over the augmented training set for the moments of every Conv layer's input (GSM).

Inputs: the data set, a teacher. Output: safetensors with `<layer>/<moment>` in float64.
"""

from __future__ import annotations

from typing import Any

import torch

from gvbsm.artifacts import Job
from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import open_split
from gvbsm.keys import derive_seed
from gvbsm.method.matching import hooked_layers
from gvbsm.method.moments import Accumulator, moments
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.devices import autocast, job_device
from gvbsm.runtime.networks import load_teacher
from gvbsm.runtime.progress import Progress


@torch.inference_mode()
def run(job: Job) -> None:
    """Measure the statistics of a spec."""
    settings = job.spec["settings"]
    device = job_device(job, settings["threads"])
    train = open_split(job, "train", device, job.spec["augment"])
    teacher = load_teacher(*job.tensors(job.spec["inputs"]["teacher"]), device)
    pixels = Pixels(job.spec["pixels"], device)
    checkpoint = Checkpoint.of(job)
    state: dict[str, Any] = checkpoint.load() or {"batches": 0, "layers": {}}
    layers = hooked_layers(teacher, ("conv",))
    found = {name: Accumulator(settings["variance"], **state["layers"].get(name, {})) for name in layers}
    for name, module in layers.items():
        module.register_forward_pre_hook(
            lambda _, x, name=name: found[name].add(moments(x[0], ("channel", "patch"), settings["patch_size"]), len(x[0]))
        )
    batches = torch.arange(len(train.labels)).split(settings["batch_size"])
    todo = [(index, derive_seed(settings["seed"], "step", step)) for step, index in enumerate(batches)][state["batches"] :]
    progress = Progress(job.title, len(batches), state["batches"])
    for unit_BCHW in train.augmented(todo):
        with autocast(device, settings["precision"]):
            teacher(pixels.normalise(unit_BCHW).contiguous(memory_format=torch.channels_last))
        state["batches"] += 1
        checkpoint.tick(lambda: state | {"layers": {name: one.state() for name, one in found.items()}})
        progress.step()
    job.images = len(train.labels)
    tensors = {f"{layer}/{kind}": value for layer, one in found.items() for kind, value in one.result().items()}
    job.write_tensors(tensors, {"patch_size": settings["patch_size"]}, {"layers": len(found), "images": len(train.labels)})
    checkpoint.clear()
