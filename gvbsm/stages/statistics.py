"""statistics: one pass over the augmented training set for the moments of every Conv layer's input (GSM).

Inputs: the data set, a teacher. Output: safetensors with `<layer>/<moment>` in float64. On request also the channel moments
of every class, for Conv and BatchNorm layers' inputs, and in the metadata the importance of each layer's statistics.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import open_split
from gvbsm.method.layers import hooked_layers
from gvbsm.method.moments import KINDS, Accumulator, ClassAccumulator, Moments, Spread, class_sums, moments
from gvbsm.pipeline.statistics import MoreStatistics, StatisticsSpec
from gvbsm.runtime.checkpoints import Checkpoint, State
from gvbsm.runtime.devices import job_device
from gvbsm.runtime.progress import Progress
from gvbsm.store.job import Job
from gvbsm.store.keys import derive_seed
from gvbsm.store.spec import Json
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
    state: State = checkpoint.load() or {"batches": 0, "layers": {}, "classes": {}, "spreads": {}}
    measures = _Measures(teacher, settings, len(job.classes or ()), state)
    batches = torch.arange(len(train.labels)).split(settings.batch_size)
    todo = [(index, derive_seed(settings.seed, "step", step)) for step, index in enumerate(batches)]
    progress = Progress(job.title, len(batches), state["batches"])

    def measure(x_BCHW: Tensor) -> None:
        with autocast(device, settings.precision):
            teacher(x_BCHW.contiguous(memory_format=torch.channels_last))

    for unit_BCHW in train.augmented(todo[state["batches"] :]):
        measure(pixels.normalise(unit_BCHW))
        measures.add(train.labels[batches[state["batches"]]])
        state["batches"] += 1
        checkpoint.tick(lambda: {"batches": state["batches"], **measures.state()})
        progress.step()
    metadata: Json = {"patch_size": settings.patch_size}
    if measures.spreads:
        torch.manual_seed(derive_seed(settings.seed, "noise"))
        size = spec.pixels.image_size
        shape = (settings.batch_size, len(spec.pixels.mean), size, size)
        measures.noise = {}
        measure(torch.randn(shape, device=device))
        metadata["importance"] = measures.importance()
    job.images = len(train.labels)
    job.write_tensors(measures.tensors(), metadata, {"layers": len(measures.layers), "images": len(train.labels)})
    checkpoint.clear()


class _BatchMeasures(NamedTuple):
    """Measures of a layer's input for one batch, on the device."""

    layer: str
    values: int  # number of values per channel of an image
    moments: Moments
    sums: list[Tensor]  # `class_sums`, empty unless the classes' moments are wanted


class _Measures:
    """Measures of the inputs of a teacher's layers over all batches that pass through it."""

    def __init__(self, teacher: nn.Module, settings: MoreStatistics, classes: int, state: State) -> None:
        self._patch_size = settings.patch_size
        self.noise: dict[str, Moments] | None = None  # moments by layer; if not None, the next batch is noise
        self._pending: list[_BatchMeasures] = []  # of the last batch
        conv = hooked_layers(teacher, ("conv",))
        both = hooked_layers(teacher, ("batchnorm", "conv"))
        self.layers = {name: Accumulator(settings.variance, **state["layers"].get(name, {})) for name in conv}
        class_layers, spread_layers = (both if wanted else {} for wanted in (settings.by_class, settings.importance))
        self.by_class = {name: ClassAccumulator(classes, **state["classes"].get(name, {})) for name in class_layers}
        self.spreads = {name: Spread(**state["spreads"].get(name, {})) for name in spread_layers}
        for name in conv | class_layers | spread_layers:
            both[name].register_forward_pre_hook(lambda _, inputs, name=name: self._measure(name, inputs[0]))

    def state(self) -> State:
        """The state from which another process continues."""
        parts: State = {"layers": self.layers, "classes": self.by_class, "spreads": self.spreads}
        return {part: {name: measure.state() for name, measure in measures.items()} for part, measures in parts.items()}

    def tensors(self) -> dict[str, Tensor]:
        """`<layer>/<moment>` in float64."""
        results = [(name, accumulator.result()) for name, accumulator in self.layers.items()]
        results += [(name, by_class.result()) for name, by_class in self.by_class.items()]
        return {f"{layer}/{kind}": value for layer, result in results for kind, value in result.items()}

    def importance(self) -> dict[str, dict[str, float]]:
        """{layer: {kind of statistics: importance}}."""
        assert self.noise is not None
        return {name: spread.importance(self.noise[name]) for name, spread in self.spreads.items()}

    def add(self, labels_B: Tensor) -> None:
        """Add the measures of the last batch."""
        pending, self._pending = self._pending, []
        fetched = iter(_fetch([tensor for measures in pending for tensor in (*measures.moments.values(), *measures.sums)]))
        for layer, values, device_moments, sums in pending:
            batch_moments = {kind: next(fetched) for kind in device_moments}
            if layer in self.layers:
                self.layers[layer].add(batch_moments, len(labels_B))
            if layer in self.spreads:
                self.spreads[layer].add(batch_moments, len(labels_B))
            if layer in self.by_class:
                self.by_class[layer].add([next(fetched) for _ in sums], values, labels_B)

    def _measure(self, name: str, x_BCHW: Tensor) -> None:
        batch_moments: Moments = {}
        if name in self.layers or name in self.spreads:
            kinds = KINDS if name in self.layers else ("channel",)
            batch_moments = moments(x_BCHW, kinds, self._patch_size)
        if self.noise is not None:
            self.noise[name] = batch_moments
            return
        sums = class_sums(x_BCHW) if name in self.by_class else []
        self._pending.append(_BatchMeasures(name, x_BCHW[0, 0].numel(), batch_moments, sums))


def _fetch(tensors: list[Tensor]) -> list[Tensor]:
    """Copy tensors to the CPU in one transfer, so that the process waits for the device only once."""
    if not tensors:
        return []
    parts = torch.cat([tensor.flatten() for tensor in tensors]).cpu().split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
