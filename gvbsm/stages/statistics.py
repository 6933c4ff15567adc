"""statistics: one pass over the augmented training set for the moments of every Conv layer's input (GSM).

Inputs: the data set, a teacher. Output: safetensors with `<layer>/<moment>` in float64. On request also the channel moments
of every class, for Conv and BatchNorm layers' inputs, and in the metadata the importance of each layer's statistics.

Reading and decoding a large data set takes longer than a small teacher. So with `--ahead` a job puts each batch through the
teachers of waiting jobs of the same row too, and saves their state as their checkpoints: these jobs have nothing left to read.
"""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import open_split
from gvbsm.errors import UserError, first_line
from gvbsm.method.layers import hooked_layers
from gvbsm.method.memory import in_parts
from gvbsm.method.moments import KINDS, Accumulator, ClassAccumulator, Moments, Spread, class_sums, moments
from gvbsm.pipeline.registry import planned_beside
from gvbsm.pipeline.stage import Artifact
from gvbsm.pipeline.statistics import MoreStatistics, StatisticsSpec
from gvbsm.runtime.checkpoints import Checkpoint, State
from gvbsm.runtime.devices import job_device
from gvbsm.runtime.progress import Progress
from gvbsm.store.job import Job
from gvbsm.store.keys import derive_seed
from gvbsm.store.locks import is_held, lock_file, taken
from gvbsm.store.spec import Json
from gvbsm.training.networks import load_teacher
from gvbsm.training.precision import autocast


@torch.inference_mode()
def run(job: Job[StatisticsSpec]) -> None:
    """Measure the statistics of a spec; with `job.ahead` also those that waiting jobs will need of the same images."""
    spec, settings = job.spec, job.spec.settings
    device = job_device(job, settings.threads, exact=True)
    train = open_split(job, spec.inputs.data, "train", device, spec.augment)
    own, pixels = _Pass(job, device), Pixels(spec.pixels, device)
    order = torch.randperm(len(train.labels), generator=torch.Generator().manual_seed(derive_seed(settings.seed, "order")))
    batches = order.split(settings.batch_size)  # files lie by class, and a batch of one class has other moments
    todo = [(index, derive_seed(settings.seed, "step", step)) for step, index in enumerate(batches)]
    with _WaitingPasses(own, len(batches), device) as others:
        progress, mark = Progress(job.title, len(batches), own.batches), time.perf_counter()
        for levels_BCHW in train.augmented(todo[own.batches :]):
            x_BCHW, labels_B = pixels.from_levels(levels_BCHW.float()), train.labels[batches[own.batches]]
            job.started += others.measure(x_BCHW, labels_B, time.perf_counter() - mark)  # that time counts for them
            own.measure(x_BCHW, labels_B)
            mark = time.perf_counter()
            own.checkpoint.tick(others.saved_before)
            progress.step()
    metadata: Json = {"patch_size": settings.patch_size}
    if own.measures.spreads:
        torch.manual_seed(derive_seed(settings.seed, "noise"))
        size = spec.pixels.image_size
        shape = (settings.batch_size, len(spec.pixels.mean), size, size)
        own.pass_through(torch.randn(shape, device=device))
        metadata["importance"] = own.measures.importance()
    job.images = len(train.labels)
    job.write_tensors(own.measures.tensors(), metadata, {"layers": len(own.measures.layers), "images": len(train.labels)})
    own.checkpoint.clear()


class _Pass:
    """The pass of the images through one teacher, with its own job and checkpoint."""

    def __init__(self, job: Job[StatisticsSpec], device: torch.device) -> None:
        self.job, self.checkpoint, self._device = job, Checkpoint.of(job), device
        self._teacher = load_teacher(*job.tensors(job.spec.inputs.teacher), device, job.spec.settings.precision)
        state: State = self.checkpoint.load() or {"batches": 0, "layers": {}, "classes": {}, "spreads": {}}
        self.batches: int = state["batches"]  # that have passed
        self.measures = _Measures(self._teacher, job.spec.settings, len(job.classes or ()), state)

    def state(self) -> State:
        """The state from which another process continues."""
        return {"batches": self.batches, **self.measures.state()}

    def pass_through(self, x_BCHW: Tensor) -> None:
        """Put a batch through the teacher, whose layers' inputs are measured; a large one in parts, to save memory."""
        with autocast(self._device, self.job.spec.settings.precision):
            for part_PCHW in in_parts(x_BCHW, self._device):
                self._teacher(part_PCHW.contiguous(memory_format=torch.channels_last))
                self.measures.end_part(len(part_PCHW))

    def measure(self, x_BCHW: Tensor, labels_B: Tensor) -> None:
        """Measure the next batch of the training set."""
        self.pass_through(x_BCHW)
        self.measures.add(labels_B)
        self.batches += 1


class _WaitingPass(_Pass):
    """The pass of a job that does not run yet. It ends in that job's checkpoint, from which the job then goes on.

    No lock is held for long: the job may start at any time, goes on from what was saved last, and is then left alone.
    """

    def __init__(self, job: Job[StatisticsSpec], device: torch.device) -> None:
        super().__init__(job, device)
        self.failed, self._seconds = False, 0.0  # time spent here on this teacher
        assert job.checkpoints
        self._lock = lock_file(job.spec.key, job.checkpoints.parent)

    def runs_itself(self) -> bool:
        """Whether the job of this pass has started."""
        return is_held(self._lock)

    def try_batch(self, x_BCHW: Tensor, labels_B: Tensor, share: float) -> float:
        """Measure the next batch, or warn and set `failed`; return the seconds it took and its `share` of the reading."""
        start = time.perf_counter()
        try:
            self.measure(x_BCHW, labels_B)
        except Exception as error:  # whatever it is, the job of this pass will meet and report it
            self.failed = True
            _warn(self.job, error)
        seconds = share + time.perf_counter() - start
        self._seconds += seconds
        return seconds

    def saved(self) -> bool:
        """Save the state for the job, unless that runs by now or is done; whether it was saved."""
        with taken(self._lock) as is_free:
            if not is_free or self.job.out.exists():
                return False
            self.job.started = time.perf_counter() - self._seconds
            self.checkpoint.save(self.state())
            return True


class _WaitingPasses:
    """The passes that waiting jobs need of the images that a job reads; on leaving, their states are saved.

    They are saved before the state of the job itself: wherever a process is killed, no pass is behind the job's own, and when
    that goes on, all do.
    """

    def __init__(self, own: _Pass, batches: int, device: torch.device) -> None:
        self._own, self._claims = own, contextlib.ExitStack()
        self._passes: list[_WaitingPass] = []
        if own.job.ahead and own.batches < batches:
            passes = [
                self._claimed(artifact, device) for artifact in planned_beside(f"{own.job.spec.stage}/{own.job.out.name}")
            ]
            self._passes = [other for other in passes if other and own.batches <= other.batches < batches]
        if self._passes:
            names = ", ".join(other.job.out.stem for other in self._passes)
            sys.stderr.write(f"{own.job.title}: measures the same images for waiting jobs too: {names}\n")

    def _claimed(self, artifact: Artifact, device: torch.device) -> _WaitingPass | None:
        """The pass for an artifact, if its job waits, and no other process measures for it."""
        job, spec = self._own.job, artifact.spec
        assert job.checkpoints
        folder, out = job.checkpoints.with_name(artifact.key), job.out.with_name(Path(artifact.path).name)
        if not isinstance(spec, StatisticsSpec) or not spec.shares_pass(job.spec) or out.exists():
            return None
        if is_held(lock_file(spec.key, folder.parent)) or not (job.store / spec.inputs.teacher).exists():
            return None
        other = replace(job, spec=spec, out=out, checkpoints=folder, receipts={}, _contents={}, seconds_before=0.0)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Two jobs that begin at once share the waiting ones among them.
            return _WaitingPass(other, device) if self._claims.enter_context(taken(folder / "ahead")) else None
        except Exception as error:  # whatever it is, its own job will meet and report it
            _warn(other, error)
            return None

    def measure(self, x_BCHW: Tensor, labels_B: Tensor, seconds: float) -> float:
        """Measure a batch whose reading took `seconds`, before the job itself does; return the time that counts for others."""
        self._passes = [other for other in self._passes if not other.runs_itself()]
        now = [other for other in self._passes if other.batches == self._own.batches]
        share = seconds / (len(now) + 1)
        spent = [other.try_batch(x_BCHW, labels_B, share) for other in now]
        self._passes = [other for other in self._passes if not other.failed]
        return sum(spent)

    def saved_before(self) -> State:
        """The state of the job itself, after those of all others have been saved."""
        self._save()
        return self._own.state()

    def _save(self) -> None:
        self._passes = [other for other in self._passes if other.saved()]

    def __enter__(self) -> _WaitingPasses:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._claims:
            if kind is None or issubclass(kind, (UserError, RuntimeError)):  # what failed here may not fail there
                self._save()


def _warn(job: Job[StatisticsSpec], error: Exception) -> None:
    sys.stderr.write(f"{job.title}: not measured before its own job runs: {first_line(error)}\n")


class _Measured(NamedTuple):
    """Measures of a layer's input for a batch or a part of one; one for each call of a layer that is called again."""

    images: int
    first: int  # the first of these images in the batch
    values: int  # number of values per channel of an image
    moments: Moments
    sums: list[Tensor]  # `class_sums`, empty unless the classes' moments are wanted


class _Measures:
    """Measures of the inputs of a teacher's layers over all batches that pass through it."""

    def __init__(self, teacher: nn.Module, settings: MoreStatistics, classes: int, state: State) -> None:
        self._patch_size = settings.patch_size
        self._pending: list[tuple[str, _Measured]] = []  # of the layers, for the parts of the last batch, on the device
        self._first = 0  # image of the batch in the next part
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
        """{layer: {kind of statistics: importance}}, beside the last batch, which is noise."""
        noise = self._last_batch()
        return {name: spread.importance(_joined(noise[name])) for name, spread in self.spreads.items()}

    def end_part(self, images: int) -> None:
        """A part of a batch has passed."""
        self._first += images

    def add(self, labels_B: Tensor) -> None:
        """Add the measures of the last batch."""
        for layer, parts in self._last_batch().items():
            of_batch = _joined(parts)
            if layer in self.layers:
                self.layers[layer].add(of_batch, len(labels_B))
            if layer in self.spreads:
                self.spreads[layer].add(of_batch, len(labels_B))
            if layer in self.by_class:
                for part in parts:
                    self.by_class[layer].add(part.sums, part.values, labels_B[part.first : part.first + part.images])

    def _last_batch(self) -> dict[str, list[_Measured]]:
        """The measures of the last batch by layer, on the CPU."""
        pending, self._pending, self._first = self._pending, [], 0
        fetched = iter(_fetch([tensor for _, part in pending for tensor in (*part.moments.values(), *part.sums)]))
        parts: dict[str, list[_Measured]] = {}
        for layer, part in pending:
            part_moments = {kind: next(fetched) for kind in part.moments}
            parts.setdefault(layer, []).append(part._replace(moments=part_moments, sums=[next(fetched) for _ in part.sums]))
        return parts

    def _measure(self, name: str, x_BCHW: Tensor) -> None:
        batch_moments: Moments = {}
        if name in self.layers or name in self.spreads:
            kinds = KINDS if name in self.layers else ("channel",)
            batch_moments = moments(x_BCHW, kinds, self._patch_size)
        sums = class_sums(x_BCHW) if name in self.by_class else []
        self._pending.append((name, _Measured(len(x_BCHW), self._first, x_BCHW[0, 0].numel(), batch_moments, sums)))


def _joined(parts: list[_Measured]) -> Moments:
    """The moments of a batch from those of its parts."""
    if len(parts) == 1:
        return parts[0].moments
    together = Accumulator("pooled")
    for part in parts:
        together.add(part.moments, part.images)
    return together.result()


def _fetch(tensors: list[Tensor]) -> list[Tensor]:
    """Copy tensors to the CPU in one transfer, so that the process waits for the device only once."""
    if not tensors:
        return []
    parts = torch.cat([tensor.flatten() for tensor in tensors]).cpu().split([tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]
