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
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import open_split
from gvbsm.errors import UserError, first_line
from gvbsm.method.layers import hooked_layers
from gvbsm.method.measuring import Measuring, Segment, calls_of
from gvbsm.method.memory import in_parts
from gvbsm.method.moments import (
    KINDS,
    Accumulator,
    Average,
    ClassAccumulator,
    Spread,
    class_sums,
    double,
    moments,
    with_squares,
)
from gvbsm.method.transfer import send
from gvbsm.pipeline.registry import planned_beside
from gvbsm.pipeline.stage import Artifact
from gvbsm.pipeline.statistics import MoreStatistics, StatisticsSpec
from gvbsm.runtime.checkpoints import Checkpoint, State, to_device
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
    if settings.importance:
        torch.manual_seed(derive_seed(settings.seed, "noise"))
        own.pass_through(torch.randn(settings.batch_size, *own.shape, device=device))
        metadata["importance"] = own.measures.importance()
    job.images = len(train.labels)
    job.write_tensors(own.measures.tensors(), metadata, {"layers": len(own.measures.layers), "images": len(train.labels)})
    own.checkpoint.clear()


class _Pass:
    """The pass of the images through one teacher, with its own job and checkpoint."""

    def __init__(self, job: Job[StatisticsSpec], device: torch.device) -> None:
        self.job, self.checkpoint, self._device = job, Checkpoint.of(job), device
        self._teacher = load_teacher(*job.tensors(job.spec.inputs.teacher), device, job.spec.settings.precision)
        self.shape = (len(job.spec.pixels.mean), *[job.spec.pixels.image_size] * 2)
        image_1CSS = torch.zeros(1, *self.shape, device=device)
        state: State = to_device(self.checkpoint.load(), double(image_1CSS).device) or {"batches": 0}
        self.batches: int = state["batches"]  # that have passed
        with autocast(device, job.spec.settings.precision):
            self.measures = _Measures(self._teacher, job.spec.settings, len(job.classes or ()), image_1CSS, state)

    def state(self) -> State:
        """The state from which another process continues."""
        return {"batches": self.batches, **self.measures.state()}

    def pass_through(self, x_BCHW: Tensor, labels_B: Tensor | None = None) -> None:
        """Put a batch through the teacher, whose layers' inputs are measured; a large one in parts, to save memory."""
        parts = in_parts(x_BCHW, self._device)
        labels = [None] * len(parts) if labels_B is None else labels_B.split(len(parts[0]))
        for part_PCHW, labels_P in zip(parts, labels, strict=True):
            with autocast(self._device, self.job.spec.settings.precision):
                self._teacher(part_PCHW.contiguous(memory_format=torch.channels_last))
            self.measures.end_part(len(part_PCHW), labels_P)

    def measure(self, x_BCHW: Tensor, labels_B: Tensor) -> None:
        """Measure the next batch of the training set."""
        self.pass_through(x_BCHW, labels_B)
        self.measures.end_batch()
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
        """Measure the next batch, or warn and set `failed`; return the seconds it took (on CUDA the host, which does
        not wait for the device) and its `share` of the reading."""
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


class _Measures:
    """Measures of the inputs of a teacher's layers over all batches that pass through it. They stay on its device."""

    def __init__(self, teacher: nn.Module, settings: MoreStatistics, classes: int, image_1CHW: Tensor, state: State) -> None:
        """`image_1CHW`: any image, which shows the sizes of the layers' inputs."""
        self.layers, both = (hooked_layers(teacher, kinds) for kinds in (("conv",), ("batchnorm", "conv")))
        class_layers = both if settings.by_class else {}
        self._measured = both if settings.importance else self.layers
        self._inputs: list[tuple[str, Tensor]] = []  # of the layers, in the last part of a batch
        for name, layer in (class_layers or self._measured).items():
            layer.register_forward_pre_hook(lambda _, inputs, name=name: self._inputs.append((name, inputs[0])))
        teacher(image_1CHW)
        self._measuring = Measuring(self._segments(settings.patch_size), settings.patch_size)
        counts, self._inputs = Counter(name for name, _ in self._inputs), []
        calls = [counts[name] for name, _, size in self._measuring.segments for _ in range(size)]
        self._calls_2N = double(image_1CHW).new_tensor(2 * calls)
        self._batch = Average()  # over its parts
        self._moments = Accumulator(settings.variance, **state.get("moments", {}))
        self._spread = Spread(**state.get("spread", {})) if settings.importance else None
        self._by_class = {name: ClassAccumulator(classes, **state.get("classes", {}).get(name, {})) for name in class_layers}

    def _segments(self, patch_size: int) -> list[Segment]:
        segments = []
        for name, x_BCHW in dict(self._inputs).items():
            kinds = KINDS if name in self.layers else ("channel",)
            of_image = moments(x_BCHW, kinds, patch_size) if name in self._measured else {}
            segments += [Segment(name, kind, len(of_image[f"{kind}_mean"])) for kind in kinds if of_image]
        return segments

    def state(self) -> State:
        """The state from which another process continues."""
        classes = {name: by_class.state() for name, by_class in self._by_class.items()}
        spread = self._spread.state() if self._spread else {}
        return {"moments": self._moments.state(), "spread": spread, "classes": classes}

    def tensors(self) -> dict[str, Tensor]:
        """`<layer>/<moment>` in float64, on the CPU."""
        of_layers = self._measuring.by_layer(self._moments.result().cpu())
        results = [(name, of_layers[name]) for name in self.layers if name in of_layers]
        results += [(name, by_class.result()) for name, by_class in self._by_class.items()]
        return {f"{layer}/{kind}": value.cpu().clone() for layer, result in results for kind, value in result.items()}

    def importance(self) -> dict[str, dict[str, float]]:
        """{layer: {kind of statistics: importance}}, beside a last batch, which is noise and has not ended."""
        assert self._spread
        segments = self._measuring.segments
        values = self._spread.importance(self._batch.mean(), [segment.size for segment in segments])
        result: dict[str, dict[str, float]] = {}
        for (name, kind, _), value in zip(segments, values, strict=True):
            result.setdefault(name, {})[kind] = value
        return result

    def end_part(self, images: int, labels_B: Tensor | None = None) -> None:
        """A part of a batch has passed; without labels, it is of no class."""
        inputs, self._inputs = self._inputs, []
        squares_2N = torch.zeros_like(self._calls_2N)
        for call in calls_of([(name, x_BCHW) for name, x_BCHW in inputs if name in self._measured]):
            squares_2N += with_squares(double(self._measuring(call, lambda _: False)))
        self._batch.add(squares_2N / self._calls_2N, images)
        if labels_B is not None and self._by_class:
            labels_B = send(labels_B, self._calls_2N.device)
            for name, x_BCHW in inputs:
                self._by_class[name].add(class_sums(x_BCHW), x_BCHW[0, 0].numel(), labels_B)

    def end_batch(self) -> None:
        """All parts of a batch have passed."""
        batch, self._batch = self._batch, Average()
        self._moments.add(batch.mean(), batch.samples)
        if self._spread:
            self._spread.add(batch.mean(), batch.samples)
