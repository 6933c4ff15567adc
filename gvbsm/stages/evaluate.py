"""evaluate: train fresh students on an image set's views and test them.

Inputs: the data set (test split, random images), an image set, its soft labels or the teachers that make them (without both:
hard labels). Output: CSV with one row per seed and epoch: loss, and in tested epochs top1 and top5 in percent. The summary over
the seeds is in the receipt.
"""

from __future__ import annotations

import statistics
from typing import Any

import pandas as pd
from torch import nn

from gvbsm.pipeline.evaluate import EvaluateSpec, HardEvaluateSpec
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.devices import job_device
from gvbsm.store.job import Job
from gvbsm.training.students import Students


def run(job: Job[EvaluateSpec | HardEvaluateSpec]) -> None:
    """Train and test the students of a spec."""
    settings = job.spec.settings
    students = Students(job, job_device(job, settings.threads))

    def test_now(model: nn.Module, epoch: int) -> dict[str, Any]:
        is_last = epoch + 1 == settings.epochs
        if (epoch + 1) % settings.test_every and not is_last:
            return {}
        accuracy = students.test(model)
        return {"top1": accuracy.top1, "top5": accuracy.top5} | ({"by_class": accuracy.by_class} if is_last else {})

    checkpoint = Checkpoint.of(job)
    rows: list[dict[str, float]] = []
    by_class: list[list[float]] = []
    for seed in job.spec.seeds:
        history = students.train(seed, checkpoint.named(f"seed{seed}"), test_now)
        by_class.append(history[-1].pop("by_class"))
        rows += [{"seed": seed, **row} for row in history]
    job.images = len(rows) * students.images
    average = {"ema": settings.ema} if settings.ema else {}
    summary = _summary(rows) | average | {"top1_by_class": [statistics.fmean(runs) for runs in zip(*by_class, strict=True)]}
    job.write_table(pd.DataFrame(rows).to_csv(index=False), summary)
    checkpoint.clear()


def _summary(rows: list[dict[str, float]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds (None for one seed) of the last epoch, and of each seed's best tested epoch."""
    by_seed: dict[float, list[dict[str, float]]] = {}
    for row in rows:
        if "top1" in row:
            by_seed.setdefault(row["seed"], []).append(row)
    last = [tested[-1] for tested in by_seed.values()]
    best = [max(tested, key=lambda row: row["top1"]) for tested in by_seed.values()]

    def spread(values: list[float]) -> dict[str, Any]:
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return {"mean": statistics.fmean(values), "std": deviation, "runs": values}

    return {
        "top1": spread([row["top1"] for row in last]),
        "top5": spread([row["top5"] for row in last]),
        "best_top1": spread([row["top1"] for row in best]),
    }
