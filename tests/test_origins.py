"""Where settings come from: files, lines and comments."""

from collections import Counter
from pathlib import Path

import pytest

from gvbsm import cli
from gvbsm.config.load import read_row
from gvbsm.config.origins import legend, sourced_settings
from gvbsm.report.background import read_settings
from gvbsm.store.code import PACKAGE
from gvbsm.store.run import Published

CONFIG = PACKAGE.parent / "config"

BASE = """\
# First line,
# second line.

# Not of the head.
classes: 10   # paper
source: {kind: digits, seed: 0}  # ours; with a # in it
backbones:                # several lines,
                          # of the list
  - {name: a, label: "x # y"}
  - name: b               # ours
    options:
      width: 4
evaluate:
  students: [a, b]        # paper
  seeds: [0,
          1]              # at the end
  note: "one
    # no comment
    two"                  # after it
  text: |
    three  # no comment
  # stands alone
  plain: a#b
squeeze:                  # of the section
  epochs: 5
"""


@pytest.fixture
def files(workspace):
    Path("config/datasets/base.yaml").write_text(BASE)
    Path("config/datasets/over.yaml").write_text("extends: base\nsqueeze: {epochs: 6}  # over\nclasses: 11\n")
    Path("config/recipes/mine.yaml").write_text("backbones: [b]   # recipe\nevaluate:\n  plain: c\n")


def sources_of(dataset, recipe=None):
    """Value, file, line and comment of every setting."""
    settings = sourced_settings(*read_row(dataset, recipe))
    return {setting.name: (setting.value, setting.file.name, setting.line, setting.comment) for setting in settings}


def test_values_have_lines_and_comments(files):
    assert sources_of("base") == {
        "classes": (10, "base.yaml", 5, "paper"),
        "source.kind": ("digits", "base.yaml", 6, "ours; with a # in it"),
        "source.seed": (0, "base.yaml", 6, "ours; with a # in it"),
        "backbones[0]": ({"name": "a", "label": "x # y"}, "base.yaml", 9, "several lines, of the list"),
        "backbones[1]": ({"name": "b", "options": {"width": 4}}, "base.yaml", 10, "ours"),
        "evaluate.students[0]": ("a", "base.yaml", 14, "paper"),
        "evaluate.students[1]": ("b", "base.yaml", 14, "paper"),
        "evaluate.seeds": ([0, 1], "base.yaml", 15, "at the end"),
        "evaluate.note": ("one # no comment two", "base.yaml", 17, "after it"),
        "evaluate.text": ("three  # no comment\n", "base.yaml", 20, ""),
        "evaluate.plain": ("a#b", "base.yaml", 23, ""),
        "squeeze.epochs": (5, "base.yaml", 25, ""),
    }
    assert legend(Path("config/datasets/base.yaml").read_text()) == "First line, second line."


def test_a_legend_leaves_out_the_line_for_editors():
    text = legend((CONFIG / "datasets" / "cifar10.yaml").read_text())
    assert text.startswith("CIFAR-10: 50,000") and text.endswith('"ours": chosen here.')


def test_an_overriding_value_names_its_own_file(files):
    over = sources_of("over", "mine")
    assert over["squeeze.epochs"] == (6, "over.yaml", 2, "over") and over["classes"] == (11, "over.yaml", 3, "")
    assert over["evaluate.plain"] == ("c", "mine.yaml", 3, "")
    # The recipe names the label alone: the value is the row's entry of that label.
    assert over["backbones[0]"] == ({"name": "b", "options": {"width": 4}}, "mine.yaml", 1, "recipe")
    assert "backbones[1]" not in over and over["source.kind"][1] == "base.yaml"


def test_what_replaces_settings_takes_their_places(workspace):
    """A section that is put out, or a source of another kind, leaves no file behind; what is put in again has its own."""
    for name, text in {
        "one": "backbones: [b]\nsource: {kind: digits, seed: 0}\nrecover: {ema: {start: 1, momentum: 0.5}}\n",
        "two": "extends: one\nsource: {kind: imagefolder}\nrecover: {ema: null}\n",
        "three": "extends: two\nsource: {path: x}\nrecover: {ema: {start: 2}}\n",
        "four": "extends: three\nrecover: {ema: {momentum: 0.1}}\n",
    }.items():
        Path(f"config/datasets/{name}.yaml").write_text(text)
    assert {name: file for name, (_, file, _, _) in sources_of("four").items()} == {
        "backbones[0]": "one.yaml",
        "source.kind": "two.yaml",
        "source.path": "three.yaml",
        "recover.ema.start": "three.yaml",
        "recover.ema.momentum": "four.yaml",
    }
    assert ("source", "seed") not in read_row("four")[1] and ("recover", "ema", "start") not in read_row("two")[1]


@pytest.mark.parametrize("text", ["{}\n", "squeeze: {epochs: 2}\n"])
def test_a_row_that_has_lost_its_backbones(files, text):
    Path("config/datasets/base.yaml").write_text(text)
    Path("config/recipes/mine.yaml").write_text("{}\n")
    assert set(sources_of("base", "mine")) <= {"squeeze.epochs"}


@pytest.mark.parametrize("dataset", ["digits", "cifar10", "cifar100", "tiny_imagenet", "imagenet", "imagenette", "imagewoof"])
@pytest.mark.parametrize("recipe", [None, "published", "sre2l", "edc", "short"])
def test_every_setting_stands_in_the_line_that_is_named(workspace, dataset, recipe):
    for setting in sourced_settings(*read_row(dataset, recipe)):
        line = setting.file.read_text().splitlines()[setting.line - 1]
        last = setting.name.rpartition(".")[2]
        assert "[" in last or f"{last}:" in line, setting
        assert not setting.comment or setting.comment.split(" ")[0] in setting.file.read_text()


@pytest.mark.parametrize("act", ["row", "report"])
def test_the_files_of_a_row_are_read_once(act, files, monkeypatch, capsys):
    """A file that is saved meanwhile would give lines that its values are not from."""
    Path("config/datasets/mine.yaml").write_text("extends: tiny\nsqueeze: {epochs: 3}\n")
    real, seen = Path.read_text, Counter()

    def counting(path, *arguments, **named):
        seen[path.name] += path.suffix == ".yaml" and "config" in path.parts
        return real(path, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", counting)
    if act == "row":
        assert cli.main(["row", "results/mine/ipc4"]) == 0 and "config/datasets/mine.yaml:2" in capsys.readouterr().out
    else:
        accuracies = {"dataset": "mine", "ipc": 4, "recipe": None, "settings": {}, "provenance": {"spec": {}}}
        settings = read_settings(Published(Path("results/mine/ipc4/acc.json"), accuracies))
        assert not settings.error and len(settings.files) == 3
    assert seen["mine.yaml"] == seen["tiny.yaml"] == seen["digits.yaml"] == 1
