"""Training of a student on the views of an image set, for the stages evaluate and student."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.config.students import Training
from gvbsm.data.image_set import open_image_set
from gvbsm.data.labels import Epoch, Labels, load_labels, views_alone
from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import open_split
from gvbsm.method.losses import REST, hard_loss, soft_loss
from gvbsm.method.parts import parts_measured, split_batches, split_parts
from gvbsm.method.ranks import ranks
from gvbsm.method.soft_labels import mean_logits, teachers_see_mixed
from gvbsm.method.transfer import send
from gvbsm.method.views import Images, grouped, mixed_hard_labels, render
from gvbsm.pipeline.evaluate import StudentSpec
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.store.job import Job
from gvbsm.training.fit import EpochRow, Measured, Recipe, fit
from gvbsm.training.networks import Accuracy, accuracy, build, load_teacher, logits_of
from gvbsm.training.precision import autocast


class Part(NamedTuple):
    """The input of one backward pass, on the device: this process's P views, and the labels of all V views."""

    x_PCHW: Tensor
    hard_VK: Tensor
    soft_VK: Tensor | None  # None: labels are hard


class Batch(NamedTuple):
    """The input of one step: its number of views, and its parts."""

    views: int
    parts: Iterable[Part]  # rendered lazily; on CUDA a tuple, which can be replayed


class Students:
    """Students with a spec's network, data and settings, one for each seed."""

    def __init__(self, job: Job[Any], device: torch.device) -> None:
        """Read the inputs of a job: the data set (test split, random images), an image set, its labels or teachers."""
        spec: StudentSpec = job.spec
        self._job, self._settings, self._device = job, job.spec.settings, device
        self._pixels = Pixels(spec.pixels, device)
        self._test = open_split(job, spec.inputs.data, "test", device)
        image_set = open_image_set(job, spec.inputs.images, spec.inputs.data, spec.random)
        self.images = image_set.shape[0]
        size = image_set.shape[-1]
        if spec.views:
            self._labels = views_alone(spec.views, self.images, size)
        else:
            self._labels = load_labels(job, spec.inputs.labels, self.images, size)
        held = spec.online.precision if spec.online else "float32"
        batchnorm = spec.online.batchnorm if spec.online else None
        teachers = [load_teacher(*job.tensors(path), device, held, batchnorm) for path in spec.inputs.teachers or []]
        resident = image_set.resident(device)
        self._parts = _Parts(spec, resident, image_set.labels, self._labels, teachers, self._pixels)

    def train(
        self, seed: int, checkpoint: Checkpoint, test: Callable[[nn.Module, int], Measured], test_every: int
    ) -> list[EpochRow]:
        """Train the student of a seed, and test it every `test_every` epochs; one row per epoch, as `fit` gives them."""
        model = build(self._job.spec.network, seed, self._device)
        recipe = Recipe.from_settings(self._settings, seed)
        title = f"{self._job.title} seed {seed}"
        return fit(model, recipe, self._batches, self._losses, checkpoint, title, test, test_every, self._job.passes_of())

    def test(self, model: nn.Module) -> Accuracy:
        """Accuracy of a student on the test images."""
        return accuracy(model, self._test, self._pixels.from_bytes, self._settings.precision_for(self._device.type))

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """The batches of an epoch from number `first` on, each in `accumulate` parts."""
        settings, positions = self._settings, torch.arange(self.images)
        batches = split_batches(positions, settings.batch_size or self._labels.batch_size)
        steps = [split_parts(batch, len(batches[0]), settings.accumulate) for batch in batches]
        skipped = sum(len(step) for step in steps[:first])
        parts = self._parts.of(epoch % len(self._labels), [part for step in steps for part in step], skipped)
        make = tuple if self._device.type == "cuda" else iter
        return (Batch(sum(map(len, step)), make(islice(parts, len(step)))) for step in steps[first:])

    def _losses(self, model: nn.Module, batch: Batch) -> Iterator[Tensor]:
        return (len(part.hard_VK) / batch.views * self._loss(model, part) for part in batch.parts)

    def _loss(self, model: nn.Module, part: Part) -> Tensor:
        """L = soft loss + gamma CE; with hard labels alone, CE. Processes that train together share the views."""
        settings = self._settings
        with autocast(self._device, settings.precision_for(self._device.type)):
            logits_PK = model(part.x_PCHW)
        logits_VK = ranks().gather_rows(logits_PK.float(), len(part.hard_VK))
        hard = hard_loss(logits_VK, part.hard_VK)
        if part.soft_VK is None or not isinstance(settings, Training):
            return hard
        soft = soft_loss(logits_VK, part.soft_VK, settings.loss, settings.temperature, part.hard_VK)
        return soft + settings.hard_weight * hard


@dataclass(frozen=True)
class _Parts:
    """Renders the views of labelled epochs, many parts at once, with their labels."""

    spec: StudentSpec
    images: Images | Tensor
    hard_labels: Tensor
    labels: Labels
    teachers: list[nn.Module]
    pixels: Pixels

    def of(self, number: int, parts: list[Tensor], skipped: int) -> Iterator[Part]:
        """An epoch's views at the positions of each part, without the first `skipped` parts.

        The groups of parts rendered together do not depend on `skipped`: in a larger batch teachers round differently.
        """
        epoch = self.labels.epoch(number)
        for group in grouped(parts, self.images.shape[1:].numel(), self.pixels.device):
            if skipped < len(group):
                yield from islice(self._render_group(epoch, group), skipped, None)
            skipped = max(skipped - len(group), 0)

    def _render_group(self, epoch: Epoch, parts: list[Tensor]) -> Iterator[Part]:
        """The parts at these positions, rendered together."""
        settings, classes = self.spec.settings, self.spec.network.classes
        positions, counts = torch.cat(parts), [len(part) for part in parts]
        rank_parts = [part[ranks().part(len(part))] for part in parts]
        x_PCHW = self._view(epoch, torch.cat(rank_parts))
        x_parts = x_PCHW.split([len(part) for part in rank_parts])
        mixed = settings.hard_label == "mixed"
        hard_VK = send(mixed_hard_labels(self.hard_labels, epoch.views, positions, classes, mixed), x_PCHW.device)
        soft_parts: Sequence[Tensor | None] = [None] * len(parts)
        if self.teachers:
            soft_parts = self._teacher_labels(epoch, parts, rank_parts, x_PCHW)
        elif epoch.coded is not None:
            soft_parts = send(epoch.logits(positions, classes, REST[settings.loss]), x_PCHW.device).split(counts)
        return map(Part, x_parts, hard_VK.split(counts), soft_parts)

    def _view(self, epoch: Epoch, positions: Tensor, mixed: bool = True) -> Tensor:
        return render(self.images, epoch.views, positions, mixed, self.pixels.from_levels, self.pixels.device, epoch.augment)

    @torch.no_grad()
    def _teacher_labels(self, epoch: Epoch, parts: list[Tensor], rank_parts: list[Tensor], x_PCHW: Tensor) -> list[Tensor]:
        """The teachers' mean logits (V,K) of every part, as relabel would store them; `x_PCHW` are this process's views."""
        online, views = self.spec.online, self.spec.views
        assert online and views
        mixed = teachers_see_mixed(views.mix, online.mixup_labels)
        # Moments are those of all views of a part: each of the processes that train together sees all of them.
        seen = parts if online.batchnorm else rank_parts
        if not mixed or (online.batchnorm and ranks().size > 1):
            x_PCHW = self._view(epoch, torch.cat(seen), mixed)
        together = parts_measured(parts, online.batchnorm_part) if online.batchnorm else None
        logits_TPK = logits_of(self.teachers, x_PCHW, online.precision, together)
        soft_parts = []
        for part, part_TPK in zip(parts, logits_TPK.split([len(part) for part in seen], 1), strict=True):
            gathered = part_TPK
            if not online.batchnorm:
                gathered = torch.stack([ranks().gather_rows(logits_PK, len(part)) for logits_PK in part_TPK])
            soft_parts.append(mean_logits(gathered, online.rescale_logits))
        return soft_parts
