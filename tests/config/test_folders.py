"""Rows, recipes and config.yaml: of the working folder first, then those beside the package."""

import re
from pathlib import Path

import pytest

from gvbsm.commands import listing
from gvbsm.config import yaml_files
from gvbsm.config.load import load_row, read_row
from gvbsm.config.messages import SettingsError
from gvbsm.config.origins import sourced_settings
from gvbsm.config.project import job_environment, load_config
from gvbsm.store.code import PACKAGE


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of the user's, without the project's files; its `config/datasets` and `config/recipes` are empty."""
    for kind in ("datasets", "recipes"):
        (tmp_path / "config" / kind).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "config"


@pytest.mark.parametrize("base", ["cifar10", "digits", "tiny_imagenet"])
def test_an_own_row_extends_one_of_the_package(own, base):
    (own / "datasets" / "mine.yaml").write_text(f"extends: {base}\nsqueeze: {{epochs: 77}}\n")
    mine, theirs = load_row("mine"), load_row(base)
    assert mine.squeeze.epochs == 77 != theirs.squeeze.epochs
    apart = {"squeeze", "backbones"}  # backbones have the settings of squeeze, too
    assert mine.model_dump(exclude=apart) == theirs.model_dump(exclude=apart)


def test_an_own_row_of_the_same_name_comes_first_and_may_extend_the_package_s(own):
    (own / "datasets" / "digits.yaml").write_text("extends: digits\nsqueeze: {epochs: 78}\n")
    (own / "datasets" / "further.yaml").write_text("extends: digits\n")
    assert load_row("digits").squeeze.epochs == load_row("further").squeeze.epochs == 78
    files = {setting.name: setting.file for setting in sourced_settings(*read_row("digits"))}
    assert files["squeeze.epochs"] == Path("config/datasets/digits.yaml")
    assert files["classes"] == PACKAGE.parent / "config" / "datasets" / "digits.yaml"


def test_recipes_too(own):
    (own / "recipes" / "mine.yaml").write_text("extends: ours\nsqueeze: {epochs: 79}\n")
    assert load_row("digits", "mine").squeeze.epochs == 79
    assert load_row("digits", "mine").recover == load_row("digits", "ours").recover
    assert read_row("digits", "rded")[0]["recover"]


def test_rows_that_extend_each_other_are_refused(own):
    (own / "datasets" / "digits.yaml").write_text("extends: other\n")
    (own / "datasets" / "other.yaml").write_text("extends: digits\n")
    with pytest.raises(SettingsError, match="extends itself by way of digits -> other -> digits"):
        load_row("digits")


def test_a_misspelt_name_is_sought_in_both_places(own):
    (own / "datasets" / "mine.yaml").write_text("extends: cifra10\n")
    with pytest.raises(SettingsError, match=r"mine\.yaml: extends: unknown data set 'cifra10'; did you mean 'cifar10'\?"):
        load_row("mine")
    with pytest.raises(SettingsError, match=r"unknown data set 'mime'; did you mean 'mine'\?"):
        load_row("mime")


def test_lists_have_both(own):
    (own / "datasets" / "mine.yaml").write_text("# My images.\nextends: cifar10\n")
    listed = {line.split()[0] for line in listing.rows("datasets").splitlines()}
    assert {"mine", "cifar10", "imagenet"} <= listed and "My images." in listing.rows("datasets")


def test_config_yaml_is_the_package_s_if_the_folder_has_none(own):
    assert load_config().targets == yaml_files.read_yaml(PACKAGE.parent / "config" / "config.yaml")["targets"]
    (own / "config.yaml").write_text("targets: [results/digits/ipc3/acc.json]\ndata_root: mine\n")
    assert load_config().targets == ["results/digits/ipc3/acc.json"]


@pytest.mark.parametrize(("name", "setting"), [("GVBSM_DATA_ROOT", "data_root"), ("GVBSM_TRACKING", "tracking")])
def test_the_caller_s_variable_counts_before_config_yaml(own, monkeypatch, name, setting):
    config = load_config().model_copy(update={"data_root": "mine", "tracking": "wandb"})
    monkeypatch.delenv(name, raising=False)
    assert job_environment(config)[name] == getattr(config, setting)
    monkeypatch.setenv(name, "tensorboard")
    assert job_environment(config)[name] == "tensorboard"


@pytest.mark.parametrize("command", ["config", "row"])
def test_no_file_anywhere_is_one_line(own, monkeypatch, command):
    """As after an installation without a clone, where nothing lies beside the package."""
    monkeypatch.setattr(yaml_files, "PROJECT", Path("nowhere"))
    expected = (
        r"config\.yaml: expected this file in .*, got none; write it" if command == "config" else "none yet, write config/"
    )
    with pytest.raises(SettingsError, match=expected) as error:
        load_config() if command == "config" else load_row("digits")
    assert "\n" not in str(error.value) and re.search(r"\w", str(error.value))
