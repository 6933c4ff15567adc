"""The environments of `--sdm conda` and `--sdm apptainer`, which cannot be made here: their files say what they must."""

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from gvbsm.store.code import PACKAGE

ROOT = PACKAGE.parent
ENVIRONMENTS = ROOT / "workflow" / "envs"
CONDA_NAMES = {"matplotlib": "matplotlib-base", "torch": "pytorch"}
DEPENDENCIES = yaml.safe_load((ENVIRONMENTS / "gvbsm.yaml").read_text())["dependencies"]
PINS = dict(entry.split(" ", 1) for entry in DEPENDENCIES if " " in entry)
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Snakemake starts the jobs from outside.
NEEDED = [
    requirement
    for requirement in map(Requirement, PROJECT["dependencies"] + PROJECT["optional-dependencies"]["tracking"])
    if requirement.name != "snakemake"
]


@pytest.mark.parametrize("requirement", NEEDED, ids=lambda requirement: requirement.name)
def test_every_dependency_is_pinned_to_a_version_that_suffices(requirement):
    pin = PINS[CONDA_NAMES.get(requirement.name, requirement.name)]
    assert re.fullmatch(r"=\d+(\.\d+)+", pin)
    assert pin.removeprefix("=") in requirement.specifier


def test_the_environment_has_no_other_package():
    names = {CONDA_NAMES.get(requirement.name, requirement.name) for requirement in NEEDED}
    assert PINS.keys() - names == {"python", "setuptools"}
    assert PINS["python"].removeprefix("=") in SpecifierSet(PROJECT["requires-python"])
    (setuptools,) = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"])
    assert PINS["setuptools"].replace(" ", "") == str(setuptools.specifier)


def test_the_container_has_what_it_copies():
    pairs = dict(re.findall(r"^    (\S+) /opt/gvbsm/(\S+)$", (ENVIRONMENTS / "gvbsm.def").read_text(), re.MULTILINE))
    assert pairs.pop("workflow/envs/gvbsm.yaml") == "environment.yaml"
    assert all(path == copy and (ROOT / path).exists() for path, copy in pairs.items())
    (project,) = re.findall(r"^PROJECT = (.*)$", (ROOT / "setup.py").read_text(), re.MULTILINE)
    # What setup.py puts into the package that is installed there.
    assert pairs.keys() == {"pyproject.toml", "setup.py", "README.md", "LICENSE", "gvbsm", *ast.literal_eval(project)}


@pytest.mark.nightly("bounds")
def test_the_script_of_the_environment_installs_the_package_that_plans(tmp_path):
    """In an environment that has setuptools, as conda's would."""
    setuptools = pytest.importorskip("setuptools", reason="no setuptools here")
    if setuptools.__version__ not in SpecifierSet(PINS["setuptools"].replace(" ", "")):
        pytest.skip(f"setuptools {setuptools.__version__} here, {PINS['setuptools']} needed")
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    (site,) = environment.glob("lib/python*/site-packages")
    for old in site.glob("setuptools*"):
        shutil.rmtree(old)
    for new in Path(setuptools.__file__).parents[1].glob("setuptools*"):
        (site / new.name).symlink_to(new)
    source = tmp_path / "a clone"
    source.mkdir()
    for part in ("pyproject.toml", "README.md", "LICENSE", "gvbsm"):
        (source / part).symlink_to(ROOT / part)
    variables = {"PATH": f"{environment}/bin:/usr/bin:/bin", "GVBSM_SOURCE": str(source)}
    subprocess.run(["bash", ENVIRONMENTS / "gvbsm.post-deploy.sh"], env=variables, check=True)
    # Conda's packages are not there, so that `gvbsm` itself would not start.
    assert (environment / "bin" / "gvbsm").exists()
    imported = subprocess.run(
        [environment / "bin" / "python", "-c", "import gvbsm; print(gvbsm.__path__[0])"],
        env=variables,
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
    )
    assert Path(imported.stdout.strip()).resolve() == (ROOT / "gvbsm").resolve()
