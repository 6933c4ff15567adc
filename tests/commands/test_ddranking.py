"""DD-Ranking's evaluators score exported runs of every recipe: the program of docs/ddranking.md, on digits."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits

from gvbsm.cli import main
from gvbsm.store.code import PACKAGE
from tests.brief import RECIPES, ROW, brief

# Digits stand for CIFAR-10, which is not here; a ConvNet trained for seconds for the teachers' release.
STAND_IN = """
import torch
from torchvision import datasets, transforms

torch.set_num_threads(1)
torch.manual_seed(0)


class Digits(datasets.ImageFolder):
    def __init__(self, root, train=True, download=False, transform=None):
        super().__init__(f"data/made/{'train' if train else 'test'}", transform)


datasets.CIFAR10 = Digits
from pathlib import Path

from ddranking.utils import build_model

teacher = build_model("ConvNet-3-BN", 10, (32, 32), device="cpu")
kept = Path("teachers/CIFAR10/ConvNet-3-BN/ckpt_best.pt")
if not kept.is_file():
    whiten = transforms.Compose([transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.25,) * 3)])
    images, labels = zip(*Digits("", transform=whiten))
    images, labels = torch.stack(images), torch.tensor(labels)
    optimizer = torch.optim.Adam(teacher.parameters(), 1e-3)
    for step in range(20):
        loss = torch.nn.functional.cross_entropy(teacher(images), labels)
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    kept.parent.mkdir(parents=True)
    torch.save(teacher.state_dict(), kept)
"""
CHANGES = {
    '"cuda"': '"cpu", "num_workers": 0',
    "ResNet-18-BN": "ConvNet-3-BN",
    '"num_epochs": 300': '"num_epochs": 2',
    '"num_eval": 5': '"num_eval": 1',
    '"ipc": 10': '"ipc": 1',
    "cifar10-ipc10": "exported",
}


@pytest.fixture
def digits(published_run):
    """The row `made`: digits of 32 px, of each class ten to train on, which recipes choose from, and three to test."""
    pictures = load_digits()
    for label in range(10):
        for number, image in enumerate(pictures.images[pictures.target == label][:13]):
            file = Path(f"data/made/{'train' if number < 10 else 'test'}/{label}/{number}.png")
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((image * 15.9).astype("uint8")).resize((32, 32)).convert("RGB").save(file)
    row = yaml.safe_load(Path("config/datasets/tiny.yaml").read_text())
    row |= {"source": {"kind": "imagefolder", "path": "made"}, "image_size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
    row["evaluate"] |= ROW["evaluate"]
    Path("config/datasets/made.yaml").write_text(yaml.safe_dump(row | {"backbones": ROW["backbones"]}))


@pytest.mark.nightly("ddranking")
@pytest.mark.skipif(not find_spec("ddranking"), reason="no ddranking here: pip install --no-deps ddranking")
@pytest.mark.parametrize("recipe", RECIPES)
def test_ddranking_scores_an_exported_run(recipe, digits, run_snakemake, record_property):
    run = f"results/made/ipc1-{brief('made', recipe)}"
    done = run_snakemake("--cores", "2", target=f"{run}/acc.json")
    assert done.returncode == 0, done.stderr
    assert main(["export", run, "--to", "imagefolder", "--out", "exported"]) == 0

    program = re.findall(r"^```python no-run\n(.*?)^```$", (PACKAGE.parent / "docs/ddranking.md").read_text(), re.S | re.M)[0]
    for before, after in CHANGES.items():
        assert before in program
        program = program.replace(before, after)
    Path("score.py").write_text(STAND_IN + program)
    done = subprocess.run([sys.executable, "score.py"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    for score in ("label_robust_score_mean", "augmentation_robust_score_mean"):
        (value,) = re.findall(rf"'{score}': (?:np.float64\()?(-?[\d.]+)", done.stdout)
        record_property(score, value)
        assert 0 <= float(value) <= 100
    assert Path("scores/lrs.csv").is_file() and Path("scores/ars.csv").is_file()
