"""statistics: one pass over the augmented training set for the moments of every Conv layer's input (GSM).

Inputs: the data set, a teacher. Output: safetensors with `<layer>/<moment>` in float64; if asked for, the channel moments of
every class too, of BatchNorm layers' inputs as well, and in the metadata how important each layer's statistics are.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import open_split
from gvbsm.method.layers import hooked_layers
from gvbsm.method.moments import KINDS, Accumulator, ClassAccumulator, Moments, Spread, class_sums, moments
from gvbsm.pipeline.statistics import MoreStatistics, StatisticsSpec
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.devices import job_device
from gvbsm.runtime.progress import Progress
from gvbsm.store.job import Job
from gvbsm.store.keys import derive_seed
from gvbsm.training.networks import load_teacher
from gvbsm.training.precision import autocast


@torch.inference_mode()
def run(job: Job[StatisticsSpec]) -> None:
    """Measure the statistics of a spec."""
    spec, settings = job.spec, job.spec.settings
    device = job_device(job, settings.threads)
    train = open_split(job, spec.inputs.data, "train", device, spec.augment)
    teacher = load_teacher(*job.tensors(spec.inputs.teacher), device)
    pixels = Pixels(spec.pixels, device)
    checkpoint = Checkpoint.of(job)
    state: dict[str, Any] = checkpoint.load() or {"batches": 0, "layers": {}, "classes": {}, "spreads": {}}
    measures = _Measures(teacher, settings, len(job.classes or ()), state)
    batches = torch.arange(len(train.labels)).split(settings.batch_size)
    todo = [(index, derive_seed(settings.seed, "step", step)) for step, index in enumerate(batches)]
    progress = Progress(job.title, len(batches), state["batches"])

    def see(x_BCHW: Tensor) -> None:
        with autocast(device, settings.precision):
            teacher(x_BCHW.contiguous(memory_format=torch.channels_last))

    for unit_BCHW in train.augmented(todo[state["batches"] :]):
        see(pixels.normalise(unit_BCHW))
        measures.add(train.labels[batches[state["batches"]]])
        state["batches"] += 1
        checkpoint.tick(lambda: {"batches": state["batches"], **measures.state()})
        progress.step()
    metadata: dict[str, Any] = {"patch_size": settings.patch_size}
    if measures.spreads:
        torch.manual_seed(derive_seed(settings.seed, "noise"))
        size = spec.pixels.image_size
        shape = (settings.batch_size, len(spec.pixels.mean), size, size)
        measures.noise = {}
        see(torch.randn(shape, device=device))
        metadata["importance"] = measures.importance()
    job.images = len(train.labels)
    job.write_tensors(measures.tensors(), metadata, {"layers": len(measures.found), "images": len(train.labels)})
    checkpoint.clear()


class _Seen(NamedTuple):
    """What is measured of a batch of a layer's inputs, on the device."""

    layer: str
    values: int  # of a channel of an image
    moments: Moments
    sums: list[Tensor]  # of classes' images, if they are asked for


class _Measures:
    """What is known of the inputs of a teacher's layers, from every batch that it sees."""

    def __init__(self, teacher: nn.Module, settings: MoreStatistics, classes: int, state: dict[str, Any]) -> None:
        self._patch_size = settings.patch_size
        self.noise: dict[str, Moments] | None = None  # set: the next batch is noise, of which only these are kept
        self._seen: list[_Seen] = []  # of the last batch
        conv = hooked_layers(teacher, ("conv",))
        both = hooked_layers(teacher, ("batchnorm", "conv"))
        self.found = {name: Accumulator(settings.variance, **state["layers"].get(name, {})) for name in conv}
        of_classes, spread = (both if is_asked else {} for is_asked in (settings.by_class, settings.importance))
        self.by_class = {name: ClassAccumulator(classes, **state["classes"].get(name, {})) for name in of_classes}
        self.spreads = {name: Spread(**state["spreads"].get(name, {})) for name in spread}
        for name in conv | of_classes | spread:
            both[name].register_forward_pre_hook(lambda _, inputs, name=name: self._see(name, inputs[0]))

    def state(self) -> dict[str, Any]:
        """What another process goes on from."""
        parts: dict[str, Any] = {"layers": self.found, "classes": self.by_class, "spreads": self.spreads}
        return {part: {name: one.state() for name, one in measures.items()} for part, measures in parts.items()}

    def tensors(self) -> dict[str, Tensor]:
        """`<layer>/<moment>` in float64."""
        results = [(name, one.result()) for name, one in self.found.items()]
        results += [(name, one.result()) for name, one in self.by_class.items()]
        return {f"{layer}/{kind}": value for layer, result in results for kind, value in result.items()}

    def importance(self) -> dict[str, dict[str, float]]:
        """Of every layer's kinds of statistics."""
        assert self.noise is not None
        return {name: one.importance(self.noise[name]) for name, one in self.spreads.items()}

    def add(self, labels_B: Tensor) -> None:
        """Add what the teacher's layers have seen of a batch."""
        seen, self._seen = self._seen, []
        fetched = iter(_fetched([tensor for one in seen for tensor in (*one.moments.values(), *one.sums)]))
        for layer, values, of_batch, sums in seen:
            found = {kind: next(fetched) for kind in of_batch}
            if layer in self.found:
                self.found[layer].add(found, len(labels_B))
            if layer in self.spreads:
                self.spreads[layer].add(found, len(labels_B))
            if layer in self.by_class:
                self.by_class[layer].add([next(fetched) for _ in sums], values, labels_B)

    def _see(self, name: str, x_BCHW: Tensor) -> None:
        of_batch: Moments = {}
        if name in self.found or name in self.spreads:
            kinds = KINDS if name in self.found else ("channel",)
            of_batch = moments(x_BCHW, kinds, self._patch_size)
        if self.noise is not None:
            self.noise[name] = of_batch
            return
        sums = class_sums(x_BCHW) if name in self.by_class else []
        self._seen.append(_Seen(name, x_BCHW[0, 0].numel(), of_batch, sums))


def _fetched(tensors: list[Tensor]) -> list[Tensor]:
    """Tensors on the CPU, all fetched at once: a device is asked to finish what it does only then."""
    if not tensors:
        return []
    parts = torch.cat([tensor.flatten() for tensor in tensors]).cpu().split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
