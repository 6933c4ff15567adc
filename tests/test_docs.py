"""What the documentation names is there."""

import importlib
import re

import pytest

from gvbsm.config.load import load_row
from gvbsm.store.code import PACKAGE

METHOD = "".join((PACKAGE.parent / "docs" / name).read_text() for name in ("method.md", "method-parts.md"))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(gvbsm\.[\w.]+:\w+)`", METHOD))))
def test_functions_of_the_method(name):
    module, _, function = name.partition(":")
    assert getattr(importlib.import_module(module), function).__doc__


def test_every_public_equation_is_on_the_page():
    """The pages name every public function and class of these modules, but for those that a named one uses."""
    named = set(re.findall(r"`gvbsm\.method\.\w+:(\w+)`", METHOD))
    for module in ("densification", "losses", "soft_labels", "recovery", "matching"):
        text = (PACKAGE / "method" / f"{module}.py").read_text()
        public = set(re.findall(r"^(?:def|class) ([A-Za-z]\w+)", text, re.MULTILINE))
        assert public - named <= {
            "class_groups",
            "gram_matrices",
            "spectrum_loss",
            "TangentLoss",
            "Round",
            "dist_loss",
            "RecoverySettings",
            "SharedViews",
            "Matching",
            "BatchClasses",
        }, module


@pytest.mark.parametrize(
    "setting", sorted(set(re.findall(r"`((?:squeeze|statistics|select|recover|relabel|evaluate)\.\w+)`", METHOD)))
)
def test_settings_of_the_method(setting, workspace):
    section, _, name = setting.partition(".")
    row = load_row("cifar10", "edc")
    assert name in type(getattr(row, section)).model_fields


def test_ruff_is_one_version():
    """Other versions format and lint this tree differently."""
    root = PACKAGE.parent
    (hook,) = re.findall(r"ruff-pre-commit\n    rev: v(\S+)\n", (root / ".pre-commit-config.yaml").read_text())
    (installed,) = re.findall(r" ruff==(\S+) ", (root / ".ci" / "run").read_text())
    (least,) = re.findall(r'"ruff>=([^"]+)"', (root / "pyproject.toml").read_text())
    assert hook == installed == least
