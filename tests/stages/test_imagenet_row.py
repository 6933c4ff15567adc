"""The imagenet row at its own size, with its own four teachers and its students, on a handful of real photographs."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision import models

from gvbsm import cli
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import write_plans
from gvbsm.pipeline.stage import Artifact
from gvbsm.store.files import load_tensors
from gvbsm.store.plans import STORE, plan_file, target_file
from gvbsm.store.receipts import read_receipt

TEACHERS = ["resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"]
STUDENTS = [
    "torchvision:resnet18",
    "torchvision:mobilenet_v2",
    "timm:deit_tiny_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
]
CLASSES = ["n01440764", "n11939491"]
ROW = {
    "extends": "imagenet",
    "source": {"train": "few/train", "val": "few/val", "ground_truth": "few/LOC_val_solution.csv"},
    "classes": 2,
    "relabel": {"coding": {"top": None}},
    "backbones": [{"name": f"torchvision:{name}", "weights": f"few/{name}.pth", "trust_weights": True} for name in TEACHERS],
}
RECIPE = {
    "squeeze": {"threads": 2},
    "statistics": {"batch_size": 3, "threads": 2},
    "recover": {"iterations": 4, "group": 1, "batch_size": 2, "shard_batches": 1, "threads": 2, "compile": False},
    "relabel": {"epochs": 2, "shard_epochs": 2, "batch_size": 2, "threads": 2},
    "evaluate": {"students": STUDENTS, "epochs": 2, "seeds": [0], "threads": 2},
}


def write_photographs(root: Path) -> None:
    """Pieces of scikit-learn's two photographs: train by class, val flat with Kaggle's table."""
    lines = ["ImageId,PredictionString"]
    for photograph, wnid in zip(load_sample_images().images, CLASSES, strict=True):
        for i in range(5):
            piece = Image.fromarray(photograph[20 * i : 20 * i + 300, 40 * i : 40 * i + 350])
            name = f"ILSVRC2012_val_{len(lines):08d}" if i > 2 else f"{wnid}_{i}"
            file = root / ("val" if i > 2 else f"train/{wnid}") / f"{name}.JPEG"
            file.parent.mkdir(parents=True, exist_ok=True)
            piece.save(file, quality=90)
            if i > 2:
                lines.append(f"{name},{wnid} 0 0 1 1")
    (root / "LOC_val_solution.csv").write_text("\n".join(lines))


@pytest.fixture
def few(workspace: Path) -> list[Artifact]:
    write_photographs(workspace / "data" / "few")
    for seed, name in enumerate(TEACHERS):
        torch.manual_seed(seed)
        torch.save(models.get_model(name, num_classes=2).state_dict(), workspace / "data" / "few" / f"{name}.pth")
    (workspace / "config" / "datasets" / "few.yaml").write_text(yaml.safe_dump(ROW))
    (workspace / "config" / "recipes" / "brief.yaml").write_text(yaml.safe_dump(RECIPE))
    planned = plan("few", 1, "brief")
    write_plans(planned, Path("results/few/ipc1-brief/acc.json"))
    return planned


def command(artifact: Artifact) -> list[str]:
    out = "results/few/ipc1-brief/acc.json" if artifact.stage == "publish" else str(STORE / artifact.path)
    spec = target_file(artifact.key) if artifact.stage == "publish" else plan_file(artifact.key)
    return [artifact.stage, "--spec", str(spec), "--out", out, "--device", "cpu", "--workers", "1"]


@pytest.mark.nightly("stages")
def test_the_whole_chain(few, capsys):
    for artifact in few:
        assert cli.main(command(artifact)) == 0, capsys.readouterr().err
    accuracies = json.loads(Path("results/few/ipc1-brief/acc.json").read_text())
    assert list(accuracies["teachers"]) == sorted(TEACHERS)
    assert sorted(accuracies["students"]) == sorted(name.partition(":")[2] for name in STUDENTS)
    assert all(0 <= student["top1"]["mean"] <= 100 for student in accuracies["students"].values())
    table = pd.read_csv("results/few/ipc1-brief/classes.csv")
    assert table["class"].tolist() == CLASSES and table["name"].tolist() == ["tench", "daisy"]
    picture = Image.open("results/few/ipc1-brief/images.png")
    assert picture.width > 100
    prepare = next(artifact for artifact in few if artifact.stage == "prepare")
    assert (STORE / prepare.path).stat().st_size < 5000, "the images stay in their files"
    squeezed = [read_receipt(STORE / artifact.path) for artifact in few if artifact.stage == "squeeze"]
    assert all("epochs" not in receipt["summary"] and 0 <= receipt["summary"]["top1"] <= 100 for receipt in squeezed)
    recovered = next(artifact for artifact in few if artifact.stage == "recover")
    tensors, metadata = load_tensors(STORE / recovered.path)
    assert tensors["images"].shape == (2, 3, 224, 224) and metadata["classes"] == CLASSES
    assert np.std(tensors["images"].numpy()) > 10
