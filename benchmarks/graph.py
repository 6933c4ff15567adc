"""Time that planning takes: `snakemake -n` before anything is made, and when all is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from benchmarks.timing import compare, report
from gvbsm.config.targets import parse_target
from gvbsm.pipeline.graph import plan_run
from gvbsm.store.code import PACKAGE
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import receipt_path

# `many` is digits with as many label shards, of distilled and of random images, as are missing to the number of jobs.
IMAGENET = ("results/imagenet/ipc50/acc.json", "results/imagenet/ipc50-short/acc.json", "results/imagenet/ipc50-sre2l/acc.json")
MANY = (300, 3_000, 10_000)


def run(repeats: int) -> None:
    """The imagenet row with two recipes, and rows of 300 to 10,000 jobs."""
    here = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(PACKAGE.parent / "config", Path(folder) / "config")
        shutil.copytree(PACKAGE.parent / "workflow", Path(folder) / "workflow")
        os.chdir(folder)
        try:
            _measure("imagenet, IPC 50, and two recipes", IMAGENET, repeats)
            for jobs in MANY:
                epochs = (jobs - 16) // 2
                settings = f"relabel: {{epochs: {epochs}, shard_epochs: 1}}\nevaluate: {{epochs: {epochs}}}\n"
                row = f"extends: digits\n{settings}"
                Path(f"config/datasets/many{jobs}.yaml").write_text(row)
                _measure(f"{jobs} jobs", (f"results/many{jobs}/ipc10/acc.json",), repeats)
        finally:
            os.chdir(here)


def _measure(title: str, targets: tuple[str, ...], repeats: int) -> None:
    def dry_run(expected: str) -> None:
        command = [sys.executable, "-m", "snakemake", "-n", *targets]
        done = subprocess.run(command, capture_output=True, text=True)
        assert expected in done.stdout + done.stderr, done.stdout + done.stderr

    timings = compare({"nothing made": lambda: dry_run("Job stats")}, repeats, torch.device("cpu"))
    artifacts = {artifact.path for target in targets for artifact in plan_run(parse_target(target))}
    _pretend_made(targets)
    timings |= compare({"all made": lambda: dry_run("Nothing to be done")}, repeats, torch.device("cpu"))
    report(f"snakemake -n, {title}: {len(artifacts)} jobs", timings, "nothing made")


def _pretend_made(targets: tuple[str, ...]) -> None:
    """Empty files wherever a run would leave one."""
    for target in targets:
        planned = plan_run(parse_target(target))
        for artifact in planned[:-1]:
            file = STORE / artifact.path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
            receipt_path(file).touch()
        published = Path(target)
        published.parent.mkdir(parents=True, exist_ok=True)
        published.write_text(json.dumps({"key": planned[-1].key}))
        for name in ("table.csv", "classes.csv", "images.png"):
            (published.parent / name).touch()
