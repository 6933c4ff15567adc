"""Every nightly test is in a group, and every group has tests, so that .ci/run's turn comes to each."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).parent
MARK = re.compile(r"\bpytest\.mark\.nightly\b(\([^()]*\))?")


@pytest.fixture
def hooks(request):
    """tests/conftest.py"""
    return next(plugin for plugin in request.config.pluginmanager.get_plugins() if hasattr(plugin, "nightly_groups"))


def test_every_nightly_test_names_a_group_and_every_group_has_tests(hooks, request):
    files = [file for file in HERE.rglob("test_*.py") if file.name != Path(__file__).name]
    named = {(file.name, argument) for file in files for argument in MARK.findall(file.read_text())}
    assert {argument for _, argument in named} == {f'("{group}")' for group in hooks.nightly_groups(request.config)}, named


class Item:
    """A collected test."""

    def __init__(self, *groups: str):
        self.nodeid = " ".join(groups) or "none"
        self.marker = pytest.mark.nightly(*groups).mark

    def get_closest_marker(self, name):
        return self.marker

    def add_marker(self, mark):
        pass


def config(group: str | None) -> SimpleNamespace:
    hook = SimpleNamespace(pytest_deselected=lambda items: None)
    lines = ["slurm: one cluster", "kills: kill -9"]
    return SimpleNamespace(getoption=lambda name: group, getini=lambda name: lines, option=SimpleNamespace(), hook=hook)


@pytest.mark.parametrize("marked", [Item(), Item("sometimes"), Item("slurm", "kills")])
def test_a_test_of_no_known_group_is_an_error(marked, hooks):
    with pytest.raises(pytest.UsageError, match=r"expected nightly with one of slurm, kills, got \("):
        hooks.pytest_collection_modifyitems(config(None), [marked])


def test_an_unknown_group_that_is_asked_for_is_an_error(hooks):
    with pytest.raises(pytest.UsageError, match="--nightly-group: expected all or one of slurm, kills, got 'slrm'"):
        hooks.pytest_configure(config("slrm"))


@pytest.mark.parametrize(("asked", "remaining"), [("kills", ["kills"]), ("all", ["slurm", "kills"])])
def test_a_group_that_is_asked_for_is_run_alone(asked, remaining, hooks):
    settings, items = config(asked), [Item("slurm"), Item("kills")]
    hooks.pytest_configure(settings)
    hooks.pytest_collection_modifyitems(settings, items)
    assert [item.nodeid for item in items] == remaining and settings.option.markexpr == "nightly"


def test_no_group_is_called_as_a_file_beside_the_tests(hooks, request):
    """pytest would take `--nightly-group workflow` for a path, and would not know the option."""
    assert not [group for group in hooks.nightly_groups(request.config) if (HERE.parent / group).exists()]
