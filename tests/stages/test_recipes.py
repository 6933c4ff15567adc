"""Every recipe of config/recipes makes a run, with few iterations and epochs. The files are listed: a new one is tested too."""

import json
import math
from pathlib import Path

import pytest
import yaml

from gvbsm.config.load import load_row
from gvbsm.pipeline.graph import plan
from gvbsm.store.code import PACKAGE
from gvbsm.store.plans import STORE

RECIPES = sorted(path.stem for path in (PACKAGE.parent / "config" / "recipes").glob("*.yaml"))
# tiny's third teacher has the name of the one that recipes of a single ResNet18 take: they get it, narrow as it is.
ROW = {
    "backbones": [
        {"name": "convnet", "options": {"width": 4}},
        {"name": "wrn16_2", "options": {"widen": 1, "depth": 10}},
        {"name": "resnet10", "label": "resnet18", "options": {"width": 8}},
    ],
    "evaluate": {"students": [{"name": "convnet", "options": {"width": 4}}]},
}
ITERATIONS, EPOCHS = 8, 2


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Recipes have most teachers in common: these are made once."""
    return tmp_path_factory.mktemp("recipes")


def brief(name: str) -> str:
    """A recipe that extends another, and takes seconds."""
    row = load_row("tiny", name)
    recover = {"iterations": min(row.recover.iterations, ITERATIONS), "compile": False, "snapshots": None}
    relabel = {"epochs": EPOCHS, "shard_epochs": EPOCHS}
    evaluate = {"epochs": EPOCHS, "seeds": [0], "baselines": ["random_soft"], "test_every": 1}
    changes = {"squeeze": {"epochs": 1}, "recover": recover, "relabel": relabel, "evaluate": evaluate}
    Path(f"config/recipes/brief_{name}.yaml").write_text(yaml.safe_dump({"extends": name} | changes))
    return f"brief_{name}"


@pytest.mark.nightly("recipes")
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_makes_a_run(name, workspace, edit_row, make_artifact, store):
    edit_row(ROW)
    Path("results").mkdir()
    (Path("results") / "store").symlink_to(store)
    artifacts = plan("tiny", 2, brief(name))
    for artifact in artifacts[:-1]:
        if not (STORE / artifact.path).exists():
            make_artifact(artifact)
    file = make_artifact(artifacts[-1])
    accuracies = json.loads(file.read_text())
    top1 = [
        accuracies["students"]["convnet"]["top1"]["mean"],
        accuracies["baselines"]["random_soft"]["convnet"]["top1"]["mean"],
    ]
    assert all(math.isfinite(value) for value in top1) and accuracies["images"] == 20
    assert accuracies["recipe"] == f"brief_{name}"
