"""statistics: one pass over the augmented training set for the moments of every Conv layer's input (GSM).

Inputs: the data set, a teacher. Output: safetensors with `<layer>/<moment>` in float64; if asked for, the channel moments of
every class too, of BatchNorm layers' inputs as well.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from gvbsm.artifacts import Job
from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import open_split
from gvbsm.keys import derive_seed
from gvbsm.method.matching import hooked_layers
from gvbsm.method.moments import Accumulator, ClassAccumulator, moments
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
    state: dict[str, Any] = checkpoint.load() or {"batches": 0, "layers": {}, "classes": {}}
    found, by_class = _hooked(teacher, settings, len(job.classes or ()), state)
    batches = torch.arange(len(train.labels)).split(settings["batch_size"])
    todo = [(index, derive_seed(settings["seed"], "step", step)) for step, index in enumerate(batches)]
    progress = Progress(job.title, len(batches), state["batches"])

    def saved() -> dict[str, Any]:
        return {
            "batches": state["batches"],
            "layers": {name: one.state() for name, one in found.items()},
            "classes": {name: one.state() for name, one in by_class.items()},
        }

    for unit_BCHW in train.augmented(todo[state["batches"] :]):
        for one in by_class.values():
            one.labels_B = train.labels[batches[state["batches"]]]
        with autocast(device, settings["precision"]):
            teacher(pixels.normalise(unit_BCHW).contiguous(memory_format=torch.channels_last))
        state["batches"] += 1
        checkpoint.tick(saved)
        progress.step()
    job.images = len(train.labels)
    results = [(layer, one.result()) for layer, one in found.items()]
    results += [(layer, one.result()) for layer, one in by_class.items()]
    tensors = {f"{layer}/{kind}": value for layer, result in results for kind, value in result.items()}
    job.write_tensors(tensors, {"patch_size": settings["patch_size"]}, {"layers": len(found), "images": len(train.labels)})
    checkpoint.clear()


def _hooked(
    teacher: nn.Module, settings: dict[str, Any], classes: int, state: dict[str, Any]
) -> tuple[dict[str, Accumulator], dict[str, ClassAccumulator]]:
    """What the teacher's passes add to from now on, by layer: moments of all images, and if asked for of each class."""
    layers = hooked_layers(teacher, ("conv",))
    found = {name: Accumulator(settings["variance"], **state["layers"].get(name, {})) for name in layers}
    for name, module in layers.items():
        module.register_forward_pre_hook(
            lambda _, x, name=name: found[name].add(moments(x[0], ("channel", "patch"), settings["patch_size"]), len(x[0]))
        )
    layers = hooked_layers(teacher, ("batchnorm", "conv")) if settings.get("by_class") else {}
    by_class = {name: ClassAccumulator(classes, **state["classes"].get(name, {})) for name in layers}
    for name, module in layers.items():
        module.register_forward_pre_hook(lambda _, x, name=name: by_class[name].add(x[0]))
    return found, by_class
