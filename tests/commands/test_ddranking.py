"""DD-Ranking's evaluators take an exported run: the program of docs/ddranking.md, on made-up images."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from gvbsm.cli import main
from gvbsm.store.code import PACKAGE

# Instead of CIFAR-10, which is not here; of the teachers' release; and of hours.
STAND_IN = """
import torch
from torchvision import datasets

torch.set_num_threads(1)


class Made(datasets.FakeData):
    def __init__(self, root, train=True, download=False, transform=None):
        super().__init__(60, (3, 32, 32), 10, transform)
        self.targets = [place % 10 for place in range(60)]

    def __getitem__(self, place):
        return super().__getitem__(place)[0], self.targets[place]


datasets.CIFAR10 = Made
from pathlib import Path

from ddranking.utils import build_model

Path("teachers/CIFAR10/ConvNet-3-BN").mkdir(parents=True)
torch.save(build_model("ConvNet-3-BN", 10, (32, 32), device="cpu").state_dict(), "teachers/CIFAR10/ConvNet-3-BN/ckpt_best.pt")
"""
CHANGES = {
    '"cuda"': '"cpu", "num_workers": 0',
    "ResNet-18-BN": "ConvNet-3-BN",
    '"num_epochs": 300': '"num_epochs": 20',
    '"num_eval": 5': '"num_eval": 1',
    '"ipc": 10': '"ipc": 1',
    "cifar10-ipc10": "exported",
}


@pytest.mark.nightly("ddranking")
@pytest.mark.skipif(not find_spec("ddranking"), reason="no ddranking here: pip install --no-deps ddranking")
def test_ddranking_scores_an_exported_run(published_run, edit_row):
    from torchvision import datasets, transforms

    for split, count in (("train", 40), ("test", 20)):
        for place, (image, _) in enumerate(datasets.FakeData(count, (3, 32, 32), 10, transforms.ToTensor())):
            file = Path(f"data/made/{split}/class{place % 10}/{place}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            transforms.ToPILImage()(image).save(file)
    row = yaml.safe_load(Path("config/datasets/tiny.yaml").read_text())
    row |= {"source": {"kind": "imagefolder", "path": "made"}, "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    row["select"] = {"choose": "random", "candidates": 1, "crops": 1, "scale": [1.0, 1.0], "cells": 1, "seed": 0}
    row["select"] |= {"threads": 1, "precision": "float32"}
    row["recover"] = {"iterations": 0}
    Path("config/datasets/made.yaml").write_text(yaml.safe_dump(row))
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", "results/made/ipc1/acc.json"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert main(["export", "results/made/ipc1", "--to", "imagefolder", "--out", "exported"]) == 0

    program = re.findall(r"^```python no-run\n(.*?)^```$", (PACKAGE.parent / "docs/ddranking.md").read_text(), re.S | re.M)[0]
    for before, after in CHANGES.items():
        assert before in program
        program = program.replace(before, after)
    Path("score.py").write_text(STAND_IN + program)
    done = subprocess.run([sys.executable, "score.py"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "label_robust_score_mean" in done.stdout and "augmentation_robust_score_mean" in done.stdout
    assert Path("scores/lrs.csv").is_file() and Path("scores/ars.csv").is_file()
