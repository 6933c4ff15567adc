"""evaluate: train fresh students on an image set's views and test them.

Inputs: the data set (test split, random images), an image set, its soft labels or the teachers that make them (neither: hard
labels). Output: CSV with one row per seed and epoch: loss, and where tested top1 and top5 in percent. The receipt sums up.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor, nn

from gvbsm.artifacts import Job
from gvbsm.data.image_set import load_image_set
from gvbsm.data.labels import Epoch, Labels, load_labels
from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import open_split
from gvbsm.method.losses import hard_loss, soft_loss
from gvbsm.method.soft_labels import mean_logits
from gvbsm.method.views import Images, mixed_hard_labels, render
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.devices import autocast, job_device
from gvbsm.runtime.networks import accuracy, build, load_teacher, logits_of
from gvbsm.runtime.parallel import ranks
from gvbsm.runtime.training import Recipe, fit, split_batches


class Batch(NamedTuple):
    """Positions (V,) of a batch in the views of a labelled epoch."""

    epoch: int
    positions: Tensor


def run(job: Job) -> None:
    """Train and test the students of a spec."""
    spec, settings = job.spec, job.spec["settings"]
    device = job_device(job, settings["threads"])
    pixels = Pixels(spec["pixels"], device)
    test = open_split(job, "test", device)
    image_set = load_image_set(job)
    count = image_set.shape[0]
    labels = load_labels(job, count, image_set.shape[-1])
    teachers = [load_teacher(*job.tensors(path), device) for path in spec["inputs"].get("teachers") or []]
    objective = _Objective(spec, image_set.resident(device), image_set.labels, labels, teachers, pixels)
    batch_size = settings.get("batch_size") or labels.batch_size

    def batches(epoch: int, first: int) -> Sequence[Batch]:
        labelled = epoch % len(labels)
        return [Batch(labelled, positions) for positions in split_batches(torch.arange(count), batch_size)[first:]]

    def losses(model: nn.Module, batch: Batch) -> Iterator[Tensor]:
        size = -(-len(batch.positions) // settings["accumulate"])
        for positions in split_batches(batch.positions, size):
            share = len(positions) / len(batch.positions)
            yield share * objective(model, Batch(batch.epoch, positions))

    def test_now(model: nn.Module, epoch: int) -> dict[str, Any]:
        is_last = epoch + 1 == settings["epochs"]
        if (epoch + 1) % settings["test_every"] and not is_last:
            return {}
        found = accuracy(model, test.squares, test.labels, pixels.from_bytes, settings["precision"])
        return {"top1": found.top1, "top5": found.top5} | ({"by_class": found.by_class} if is_last else {})

    checkpoint = Checkpoint.of(job)
    rows: list[dict[str, float]] = []
    by_class: list[list[float]] = []
    for seed in spec["seeds"]:
        model = build(spec["network"], seed, device)
        recipe = Recipe.from_settings(settings, seed)
        title = f"{job.title} seed {seed}"
        history = fit(model, recipe, batches, losses, checkpoint.named(f"seed{seed}"), title, test_now)
        by_class.append(history[-1].pop("by_class"))
        rows += [{"seed": seed, **row} for row in history]
    job.images = len(rows) * count
    tested = {"ema": settings["ema"]} if settings.get("ema") else {}
    summary = _summary(rows) | tested | {"top1_by_class": [statistics.fmean(runs) for runs in zip(*by_class, strict=True)]}
    job.write_table(pd.DataFrame(rows).to_csv(index=False), summary)
    checkpoint.clear()


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
        if self.spec["views"]["mix"] == "mixup" and how["mixup_labels"] == "unmixed":
            x_PCHW = self._view(epoch, positions, mixed=False)
        logits_TPK = logits_of(self.teachers, x_PCHW, how["precision"])
        logits_TVK = torch.stack([ranks().whole(one_PK, len(positions)) for one_PK in logits_TPK])
        return mean_logits(logits_TVK, how["rescale_logits"])


def _summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds (0 for one seed) of the last epoch, and of each seed's best tested one."""
    by_seed: dict[float, list[dict[str, float]]] = {}
    for row in rows:
        if "top1" in row:
            by_seed.setdefault(row["seed"], []).append(row)
    last = [tested[-1] for tested in by_seed.values()]
    best = [max(tested, key=lambda row: row["top1"]) for tested in by_seed.values()]

    def spread(values: list[float]) -> dict[str, Any]:
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return {"mean": statistics.fmean(values), "std": deviation, "runs": values}

    return {
        "top1": spread([row["top1"] for row in last]),
        "top5": spread([row["top5"] for row in last]),
        "best_top1": spread([row["top1"] for row in best]),
    }
