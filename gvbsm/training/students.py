"""The training of a student on the views of an image set, as evaluate tests it and `student` keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.config.stages import Training
from gvbsm.data.image_set import open_image_set
from gvbsm.data.labels import Epoch, Labels, load_labels, views_alone
from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import open_split
from gvbsm.method.losses import hard_loss, soft_loss
from gvbsm.method.soft_labels import mean_logits, teachers_see_mixed
from gvbsm.method.transfer import send
from gvbsm.method.views import Images, grouped, mixed_hard_labels, render
from gvbsm.pipeline.evaluate import StudentSpec
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.distributed import ranks
from gvbsm.store.job import Job
from gvbsm.training.fit import Recipe, fit, split_batches
from gvbsm.training.networks import Accuracy, accuracy, build, load_teacher, logits_of
from gvbsm.training.precision import autocast


class Part(NamedTuple):
    """What a backward pass is of, on the device: this process's views, and the labels of all V views."""

    x_PCHW: Tensor
    hard_VK: Tensor
    soft_VK: Tensor | None  # None: labels are hard


class Batch(NamedTuple):
    """What a step is of: so many views, in parts that are made when they are asked for."""

    views: int
    parts: Iterator[Part]


class Students:
    """Students of a spec's network, data and settings, which differ by their seeds alone."""

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
        teachers = [load_teacher(*job.tensors(path), device) for path in spec.inputs.teachers or []]
        resident = image_set.resident(device)
        self._parts = _Parts(spec, resident, image_set.labels, self._labels, teachers, self._pixels)

    def train(
        self, seed: int, checkpoint: Checkpoint, after_epoch: Callable[[nn.Module, int], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Train the student of a seed; one row per epoch, as `fit` gives them."""
        model = build(self._job.spec.network, seed, self._device)
        recipe = Recipe.from_settings(self._settings, seed)
        title = f"{self._job.title} seed {seed}"
        return fit(model, recipe, self._batches, self._losses, checkpoint, title, after_epoch)

    def test(self, model: nn.Module) -> Accuracy:
        """Accuracy of a student on the test images."""
        squares, precision = self._test.whole_images, self._settings.precision
        return accuracy(model, squares, self._test.labels, self._pixels.from_bytes, precision)

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """The steps of an epoch from its `first` on, each in `accumulate` parts."""
        settings, everything = self._settings, torch.arange(self.images)
        batches = split_batches(everything, settings.batch_size or self._labels.batch_size)
        cut = [split_batches(batch, -(-len(batch) // settings.accumulate)) for batch in batches]
        skipped = sum(len(parts) for parts in cut[:first])
        parts = self._parts.of(epoch % len(self._labels), [part for parts in cut for part in parts], skipped)
        return (Batch(sum(map(len, some)), islice(parts, len(some))) for some in cut[first:])

    def _losses(self, model: nn.Module, batch: Batch) -> Iterator[Tensor]:
        return (len(part.hard_VK) / batch.views * self._loss(model, part) for part in batch.parts)

    def _loss(self, model: nn.Module, part: Part) -> Tensor:
        """L = soft loss + gamma CE; with hard labels alone, CE. Processes that train together share the views."""
        settings = self._settings
        with autocast(self._device, settings.precision):
            logits_PK = model(part.x_PCHW)
        logits_VK = ranks().gather_rows(logits_PK.float(), len(part.hard_VK))
        hard = hard_loss(logits_VK, part.hard_VK)
        if part.soft_VK is None or not isinstance(settings, Training):
            return hard
        soft = soft_loss(logits_VK, part.soft_VK, settings.loss, settings.temperature)
        return soft + settings.hard_weight * hard


@dataclass(frozen=True)
class _Parts:
    """Makes views of labelled epochs and their labels, many parts at once."""

    spec: StudentSpec
    images: Images | Tensor
    hard_labels: Tensor
    labels: Labels
    teachers: list[nn.Module]
    pixels: Pixels

    def of(self, number: int, parts: list[Tensor], skipped: int) -> Iterator[Part]:
        """Of an epoch's views, those at the positions of all parts but the first few.

        The parts that are made together are the same wherever one begins: teachers that see more at once round otherwise.
        """
        epoch = self.labels.epoch(number)
        for group in grouped(parts, self.images.shape[1:].numel()):
            if skipped < len(group):
                yield from islice(self._see(epoch, group), skipped, None)
            skipped = max(skipped - len(group), 0)

    def _see(self, epoch: Epoch, parts: list[Tensor]) -> Iterator[Part]:
        """Parts, made at once."""
        settings, classes = self.spec.settings, self.spec.network.classes
        positions, counts = torch.cat(parts), [len(part) for part in parts]
        mine = [part[ranks().part(len(part))] for part in parts]
        x_PCHW = self._view(epoch, torch.cat(mine))
        x_parts = x_PCHW.split([len(part) for part in mine])
        mixed = settings.hard_label == "mixed"
        hard_VK = send(mixed_hard_labels(self.hard_labels, epoch.views, positions, classes, mixed), x_PCHW.device)
        soft_parts: Sequence[Tensor | None] = [None] * len(parts)
        if self.teachers:
            soft_parts = self._taught(epoch, mine, counts, x_PCHW)
        elif epoch.coded is not None:
            # Logits that were not kept: the squared error needs their mean, probabilities their mass.
            rest = "mean" if settings.loss == "mse" else "mass"
            soft_parts = send(epoch.logits(positions, classes, rest), x_PCHW.device).split(counts)
        return map(Part, x_parts, hard_VK.split(counts), soft_parts)

    def _view(self, epoch: Epoch, positions: Tensor, mixed: bool = True) -> Tensor:
        return render(self.images, epoch.views, positions, mixed, self.pixels.from_levels, self.pixels.device, epoch.augment)

    @torch.no_grad()
    def _taught(self, epoch: Epoch, mine: list[Tensor], counts: list[int], x_PCHW: Tensor) -> list[Tensor]:
        """The teachers' mean logits (V,K) of every part, as relabel would store them; `x_PCHW` are this process's views."""
        how, views = self.spec.online, self.spec.views
        assert how and views
        if not teachers_see_mixed(views.mix, how.mixup_labels):
            x_PCHW = self._view(epoch, torch.cat(mine), mixed=False)
        logits_TPK = logits_of(self.teachers, x_PCHW, how.precision)
        found = []
        for count, part_TPK in zip(counts, logits_TPK.split([len(part) for part in mine], 1), strict=True):
            logits_TVK = torch.stack([ranks().gather_rows(one_PK, count) for one_PK in part_TPK])
            found.append(mean_logits(logits_TVK, how.rescale_logits))
        return found
