"""evaluate: train fresh students on an image set's views and test them.

Inputs: the data set (test split, random images), an image set, its soft labels or the teachers that make them (without both:
hard labels). Output: CSV with one row per seed and epoch: loss, and in tested epochs top1 and top5 in percent. The summary over
the seeds is in the receipt.
"""

from __future__ import annotations

import statistics

import pandas as pd
from torch import nn

from gvbsm.pipeline.evaluate import EvaluateSpec, HardEvaluateSpec
from gvbsm.runtime.checkpoints import Checkpoint
from gvbsm.runtime.devices import job_device
from gvbsm.store.job import Job
from gvbsm.store.run import Result, Spread
from gvbsm.training.fit import EpochRow, Measured
from gvbsm.training.students import Students


def run(job: Job[EvaluateSpec | HardEvaluateSpec]) -> None:
    """Train and test the students of a spec."""
    settings = job.spec.settings
    students = Students(job, job_device(job, settings.threads))

    def test_now(model: nn.Module, epoch: int) -> Measured:
        accuracy = students.test(model)
        tested: Measured = {"top1": accuracy.top1, "top5": accuracy.top5}
        return {**tested, "by_class": accuracy.by_class} if epoch + 1 == settings.epochs else tested

    checkpoint = Checkpoint.of(job)
    histories: list[list[EpochRow]] = []
    by_class: list[list[float]] = []
    for seed in job.spec.seeds:
        histories.append(students.train(seed, checkpoint.named(f"seed{seed}"), test_now, settings.test_every))
        by_class.append(histories[-1][-1].pop("by_class"))
    rows = [{"seed": seed, **row} for seed, history in zip(job.spec.seeds, histories, strict=True) for row in history]
    job.images = len(rows) * students.images
    average = {"ema": settings.ema} if settings.ema else {}
    summary = {
        **_summary(histories),
        **average,
        "top1_by_class": [statistics.fmean(runs) for runs in zip(*by_class, strict=True)],
    }
    job.write_table(pd.DataFrame(rows).to_csv(index=False), summary)
    checkpoint.clear()


def _summary(histories: list[list[EpochRow]]) -> Result:
    """Mean and standard deviation over seeds (None for one seed) of the last epoch, and of each seed's best tested epoch."""
    tested = [[row for row in history if "top1" in row] for history in histories]
    last = [rows[-1] for rows in tested]
    best = [max(rows, key=lambda row: row["top1"]) for rows in tested]
    return {
        "top1": _spread([row["top1"] for row in last]),
        "top5": _spread([row["top5"] for row in last]),
        "best_top1": _spread([row["top1"] for row in best]),
    }


def _spread(values: list[float]) -> Spread:
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "std": deviation, "runs": values}
