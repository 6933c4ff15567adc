"""Rows and recipes laid over each other."""

from pathlib import Path

import pytest

from gvbsm.config.load import load_row
from gvbsm.config.messages import SettingsError
from gvbsm.config.project import comparison, load_config
from gvbsm.pipeline.graph import plan, plan_run
from gvbsm.store.code import PACKAGE


@pytest.fixture
def recipe(workspace):
    def write(name: str, text: str) -> None:
        Path(f"config/recipes/{name}.yaml").write_text(text)

    return write


def test_a_recipe_begins_with_another(recipe):
    recipe("brief", "recover: {iterations: 7, lr: 0.5}\nevaluate: {epochs: 3}\n")
    recipe("briefer", "extends: brief\nrecover: {iterations: 5}\n")
    row, brief, briefer = (load_row("tiny", name) for name in (None, "brief", "briefer"))
    assert (brief.recover.iterations, briefer.recover.iterations) == (7, 5)
    assert briefer.recover.lr == 0.5 and briefer.evaluate.students[0].evaluate.epochs == 3
    assert briefer.recover.roll == row.recover.roll
    recipe("brief", "recover: {iterations: 7}\n")
    assert load_row("tiny", "briefer").recover.lr == row.recover.lr


def test_no_more_epochs_are_labelled_than_a_student_trains_for(recipe):
    recipe("short_training", "evaluate: {epochs: 3}\n")
    recipe("long_one", "evaluate: {epochs: 3, students: [{name: convnet, evaluate: {epochs: 6}}, wrn16_2]}\n")
    recipe("own", "relabel: {epochs: null}\n")
    epochs = [load_row("tiny", name).labelled_epochs for name in (None, "short_training", "long_one", "own")]
    assert epochs == [4, 3, 4, 4]
    labelled = [artifact.spec.epochs for artifact in plan("tiny", 4, "short_training") if artifact.stage == "relabel"]
    assert set(map(tuple, labelled)) == {(0, 2), (2, 3)}


def test_backbones_of_a_recipe_that_is_extended_are_the_rows_by_label(recipe):
    recipe("one", "backbones: [wrn16_2]\n")
    recipe("other", "extends: one\nrelabel: {epochs: 2}\n")
    (backbone,) = load_row("tiny", "other").backbones
    assert backbone.options == {"widen": 1, "depth": 10}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("extends: shrt\n", r"a\.yaml: extends: unknown recipe 'shrt'; did you mean 'short'\?"),
        ("extends: a\n", r"a\.yaml: extends itself by way of a -> a; remove one extends"),
        ("extends: [short]\n", r"a\.yaml: extends: expected the name of a recipe, got \[short\]; write a name"),
        ("extends: digits\n", r"a\.yaml: extends: unknown recipe 'digits'"),
    ],
)
def test_what_cannot_be_extended(text, message, recipe):
    recipe("a", text)
    with pytest.raises(SettingsError, match=message):
        load_row("tiny", "a")


def test_a_mistake_names_the_recipe_that_holds_it(recipe):
    recipe("base", "recover: {iterations: none}\n")
    recipe("top", "extends: base\nrecover: {lr: 0.5}\n")
    with pytest.raises(SettingsError, match=r"base\.yaml: recover\.iterations"):
        load_row("tiny", "top")


@pytest.mark.parametrize(
    ("texts", "message"),
    [  # of the recipes a, b and c, of which each extends the one before
        (
            ["recover: {ema: {momentum: 0.5}}", "recover: {ema: null}", "recover: {ema: {x: 1}}"],
            r"c\.yaml: recover\.ema: ",
        ),
        (
            ["recover: {ema: null}", "recover: {ema: {momentum: 2}}", "recover: {ema: {start: 1}}"],
            r"b\.yaml: recover\.ema\.",
        ),
        (["recover: {ema: {momentum: 0.5, start: 0}}", "recover: {ema: 5}", "{}"], r"b\.yaml: recover\.ema: expected"),
        (["source: {kind: imagefolder, path: x}", "source: {kind: imagenet, path: x}", "{}"], r"b\.yaml: source: .*'path'"),
        (["mean: [0.5, 0.5, 0.5]", "{}", "{}"], r"a\.yaml: std: expected one value .* got 1; give mean and std as many values"),
        (["std: [0.5, 0.5]", "mean: [0.4]", "{}"], r"b\.yaml: std: expected one value"),
        (["image_size: 64", "resize: 32", "image_size: 48"], r"c\.yaml: resize: expected at least image_size \(48\), got 32"),
    ],
)
def test_a_mistake_names_the_file_that_made_it_one(texts, message, recipe):
    for name, base, text in zip("abc", (None, "a", "b"), texts, strict=True):
        recipe(name, (f"extends: {base}\n" if base else "") + text.removeprefix("{}") + "\n")
    with pytest.raises(SettingsError, match=message):
        load_row("tiny", "c")


CONFIG = PACKAGE.parent / "config"


def test_every_recipe_is_short():
    for path in (CONFIG / "recipes").glob("*.yaml"):
        assert len(path.read_text().splitlines()) <= 40, path


@pytest.mark.parametrize("name", [None, *sorted(path.stem for path in (CONFIG / "recipes").glob("*.yaml"))])
def test_every_row_can_be_planned_alone_and_with_every_recipe(name, workspace):
    for row in sorted((CONFIG / "datasets").glob("*.yaml")):
        assert plan(row.stem, 10, name)[-1].stage == "publish"


def test_comparisons_can_be_planned(monkeypatch):
    monkeypatch.chdir(PACKAGE.parent)
    config = load_config()
    assert {"digits", "cifar10"} <= config.comparisons.keys()
    for target in (target for name in config.comparisons for target in comparison(config, name)):
        assert plan_run(target)[-1].stage == "publish"


def test_sizes_that_nothing_depends_on_are_not_compared(workspace, edit_row):
    """More logits than classes are all of them, and the batches of labels by others are those of their files."""
    edit_row({"relabel": {"coding": {"top": 11}}, "evaluate": {"accumulate": 16}, "statistics": {"patch_size": 8}})
    load_row("tiny")
    edit_row({"distilled": {"images": "a", "labels": "b", "seed": 42}, "evaluate": {"accumulate": 17}})
    load_row("tiny")
