"""Every recipe of config/recipes as a run of seconds. The files are listed, so that a new one is tested too."""

from pathlib import Path

import yaml

from gvbsm.config.load import load_row
from gvbsm.store.code import PROJECT

RECIPES = sorted(path.stem for path in (PROJECT / "config" / "recipes").glob("*.yaml"))
# The third teacher has the name of the one that recipes of a single ResNet18 take: they get it, narrow as it is.
ROW = {
    "backbones": [
        {"name": "convnet", "options": {"width": 4}},
        {"name": "wrn16_2", "options": {"widen": 1, "depth": 10}},
        {"name": "resnet10", "label": "resnet18", "options": {"width": 8}},
    ],
    "evaluate": {"students": [{"name": "convnet", "options": {"width": 4}}]},
}
ITERATIONS, EPOCHS = 8, 2


def brief(dataset: str, name: str) -> str:
    """The name of a recipe, written here, that extends another and takes seconds on a data set."""
    iterations = min(load_row(dataset, name).recover.iterations, ITERATIONS)
    changes = {
        "squeeze": {"epochs": 1},
        "recover": {"iterations": iterations, "compile": False, "snapshots": None},
        "relabel": {"epochs": EPOCHS, "shard_epochs": EPOCHS},
        "evaluate": {"epochs": EPOCHS, "seeds": [0], "baselines": ["random_soft"], "test_every": 1},
    }
    Path(f"config/recipes/brief_{name}.yaml").write_text(yaml.safe_dump({"extends": name} | changes))
    return f"brief_{name}"
