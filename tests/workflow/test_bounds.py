"""The oldest versions that pyproject.toml allows suffice: an environment of them imports everything and makes a small run."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

from gvbsm.store.code import PACKAGE

ROOT = PACKAGE.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Optional packages, which modules import only where they are asked for.
IMPORT = """
import importlib, pkgutil, gvbsm
for module in pkgutil.walk_packages(gvbsm.__path__, "gvbsm."):
    if module.name != "gvbsm.__main__":
        importlib.import_module(module.name)
"""
# Every stage that most runs have, in a job each.
SMALL = {
    "extends": "digits",
    "image_size": 8,
    "backbones": [{"name": "convnet", "options": {"width": 8}}],
    "squeeze": {"epochs": 1},
    "recover": {"iterations": 3, "batch_size": 10},
    "relabel": {"epochs": 2, "batch_size": 10},
    "evaluate": {
        "students": [{"name": "convnet", "options": {"width": 8}}],
        "seeds": [0],
        "epochs": 2,
        "baselines": [],
    },
}


def oldest(requirement: str) -> str:
    """name==version of a lower bound."""
    parsed = Requirement(requirement)
    (bound,) = parsed.specifier
    assert bound.operator == ">=", f"{requirement}: one lower bound, and no upper one"
    return f"{parsed.name}=={bound.version}"


def test_every_dependency_has_a_lower_bound():
    assert len({oldest(requirement) for requirement in PROJECT["dependencies"]}) == len(PROJECT["dependencies"])


@pytest.mark.nightly("bounds")
@pytest.mark.skipif(
    PROJECT["requires-python"] != f">={sys.version_info.major}.{sys.version_info.minor}",
    reason="the oldest versions have no packages for newer Pythons",
)
def test_the_oldest_dependencies_suffice(tmp_path):
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    pins = [oldest(requirement) for requirement in PROJECT["dependencies"]]
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-cache-dir", *pins, "-e", ROOT], check=True)
    (tmp_path / "config" / "datasets").mkdir(parents=True)
    (tmp_path / "config" / "datasets" / "small.yaml").write_text(yaml.safe_dump(SMALL))
    for file in [Path("config.yaml"), Path("datasets/digits.yaml")]:
        (tmp_path / "config" / file).write_text((ROOT / "config" / file).read_text())
    variables = os.environ | {"PYTHONPATH": str(ROOT), "GVBSM_DEVICE": "cpu", "PATH": f"{environment}/bin:{os.environ['PATH']}"}
    chain = ["-m", "snakemake", "-s", str(ROOT / "workflow" / "Snakefile"), "--cores", "2", "results/small/ipc1/acc.json"]
    for arguments in (["-c", IMPORT], ["-m", "gvbsm", "explain", "results/small/ipc1"], chain):
        done = subprocess.run([python, *arguments], cwd=tmp_path, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
