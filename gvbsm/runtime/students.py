"""The training of a student on the views of an image set, as evaluate tests it and `student` keeps it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gvbsm.artifacts import Job
from gvbsm.data.image_set import load_image_set
from gvbsm.data.labels import Epoch, Labels, load_labels
from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import open_split
from gvbsm.method.losses import hard_loss, soft_loss
from gvbsm.method.soft_labels import mean_logits, teachers_see_mixed
from gvbsm.method.views import Images, mixed_hard_labels, render
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.devices import autocast
from gvbsm.runtime.networks import Accuracy, accuracy, build, load_teacher, logits_of
from gvbsm.runtime.parallel import ranks
from gvbsm.runtime.training import Recipe, fit, split_batches


class Batch(NamedTuple):
    """Positions (V,) of a batch in the views of a labelled epoch."""

    epoch: int
    positions: Tensor


class Students:
    """Students of a spec's network, data and settings, which differ by their seeds alone."""

    def __init__(self, job: Job, device: torch.device) -> None:
        """Read the inputs of a job: the data set (test split, random images), an image set, its labels or teachers."""
        self._job, self._settings, self._device = job, job.spec["settings"], device
        self._pixels = Pixels(job.spec["pixels"], device)
        self._test = open_split(job, "test", device)
        image_set = load_image_set(job)
        self.images = image_set.shape[0]
        self._labels = load_labels(job, self.images, image_set.shape[-1])
        teachers = [load_teacher(*job.tensors(path), device) for path in job.spec["inputs"].get("teachers") or []]
        resident = image_set.resident(device)
        self._objective = _Objective(job.spec, resident, image_set.labels, self._labels, teachers, self._pixels)

    def train(
        self, seed: int, checkpoint: Checkpoint, after_epoch: Callable[[nn.Module, int], dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Train the student of a seed; one row per epoch, as `fit` gives them."""
        model = build(self._job.spec["network"], seed, self._device)
        recipe = Recipe.from_settings(self._settings, seed)
        title = f"{self._job.title} seed {seed}"
        return fit(model, recipe, self._batches, self._losses, checkpoint, title, after_epoch)

    def test(self, model: nn.Module) -> Accuracy:
        """Accuracy of a student on the test images."""
        squares, precision = self._test.squares, self._settings["precision"]
        return accuracy(model, squares, self._test.labels, self._pixels.from_bytes, precision)

    def _batches(self, epoch: int, first: int) -> Sequence[Batch]:
        size, labelled = self._settings.get("batch_size") or self._labels.batch_size, epoch % len(self._labels)
        return [Batch(labelled, positions) for positions in split_batches(torch.arange(self.images), size)[first:]]

    def _losses(self, model: nn.Module, batch: Batch) -> Iterator[Tensor]:
        size = -(-len(batch.positions) // self._settings["accumulate"])
        for positions in split_batches(batch.positions, size):
            share = len(positions) / len(batch.positions)
            yield share * self._objective(model, Batch(batch.epoch, positions))


@dataclass(frozen=True)
class _Objective:
    """L = soft loss + gamma CE of a batch; with hard labels alone, CE. Processes that train together share the batch."""

    spec: dict[str, Any]
    images: Images | Tensor
    hard_labels: Tensor
    labels: Labels
    teachers: list[nn.Module]
    pixels: Pixels

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        epoch, settings, count = self.labels.epoch(batch.epoch), self.spec["settings"], len(batch.positions)
        x_PCHW = self._view(epoch, batch.positions)
        with autocast(self.pixels.device, settings["precision"]):
            logits_PK = model(x_PCHW)
        logits_VK = ranks().whole(logits_PK.float(), count)
        mixed = settings["hard_label"] == "mixed"
        hard_VK = mixed_hard_labels(self.hard_labels, epoch.views, batch.positions, logits_VK.shape[1], mixed)
        hard = hard_loss(logits_VK, hard_VK.to(logits_VK.device))
        if self.teachers:
            soft_VK = self._taught(epoch, batch.positions, x_PCHW)
        elif epoch.coded is not None:
            # Logits that were not kept: the squared error needs their mean, probabilities their mass.
            rest = "mean" if settings["loss"] == "mse" else "mass"
            soft_VK = epoch.logits(batch.positions, logits_VK.shape[1], rest).to(logits_VK.device)
        else:
            return hard
        return soft_loss(logits_VK, soft_VK, settings["loss"], settings.get("temperature")) + settings["hard_weight"] * hard

    def _view(self, epoch: Epoch, positions: Tensor, mixed: bool = True) -> Tensor:
        """This process's part (P,C,S,S) of the views at `positions`."""
        part = positions[ranks().part(len(positions))]
        return render(self.images, epoch.views, part, mixed, self.pixels.from_levels, self.pixels.device, epoch.augment)

    @torch.no_grad()
    def _taught(self, epoch: Epoch, positions: Tensor, x_PCHW: Tensor) -> Tensor:
        """The teachers' mean logits (V,K), as relabel would store them; `x_PCHW` are this process's views."""
        how = self.spec["online"]
        if not teachers_see_mixed(self.spec["views"]["mix"], how["mixup_labels"]):
            x_PCHW = self._view(epoch, positions, mixed=False)
        logits_TPK = logits_of(self.teachers, x_PCHW, how["precision"])
        logits_TVK = torch.stack([ranks().whole(one_PK, len(positions)) for one_PK in logits_TPK])
        return mean_logits(logits_TVK, how["rescale_logits"])
