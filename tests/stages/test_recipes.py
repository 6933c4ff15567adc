"""Every recipe of config/recipes makes a run, with few iterations and epochs."""

import json
import math
from pathlib import Path

import pytest

from gvbsm.pipeline.graph import plan
from gvbsm.store.plans import STORE
from tests.brief import RECIPES, ROW, brief


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Recipes have most teachers in common: these are made once."""
    return tmp_path_factory.mktemp("recipes")


@pytest.mark.nightly("recipes")
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_makes_a_run(name, workspace, edit_row, make_artifact, store):
    edit_row(ROW)
    Path("results").mkdir()
    (Path("results") / "store").symlink_to(store)
    artifacts = plan("tiny", 2, brief("tiny", name))
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
