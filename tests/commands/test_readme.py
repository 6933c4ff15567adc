"""What the README shows can be done as it stands there."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gvbsm import cli
from gvbsm.configs import parse_target
from gvbsm.keys import PACKAGE
from gvbsm.plan import plan
from gvbsm.rows import load_row

README = (PACKAGE.parent / "README.md").read_text()
CODING, ROW, RECIPE = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
(PYTHON,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
OWN = {"results/mine/ipc10/acc.json", "results/imagenet/ipc10-sre2l_published/acc.json"}  # of what is still to be written


def test_the_row_of_ones_own_images(workspace):
    Path("config/datasets/mine.yaml").write_text(ROW)
    row = load_row("mine")
    assert row.source.path == "mine" and row.classes == 3
    assert plan("mine", 10)[-1].stage == "publish"
    assert len(ROW.splitlines()) <= 15


def test_the_recipe_of_small_soft_labels(workspace):
    Path("config/recipes/small.yaml").write_text(CODING)
    labels = [one.spec for one in plan("imagenet", 10, "small") if one.stage == "relabel"]
    assert labels and all(one["settings"]["coding"] == {"values": "int4", "top": 15} for one in labels)


def test_the_recipe_of_a_distilled_set_by_others(workspace):
    Path("config/recipes/sre2l_published.yaml").write_text(RECIPE)
    stages = {one.stage for one in plan("imagenet", 10, "sre2l_published")}
    assert {"adopt", "convert"} <= stages and "recover" not in stages


def test_the_images_and_labels_of_a_run_are_read(made, tmp_path):
    shutil.copytree(PACKAGE.parent / "examples", tmp_path / "examples")
    program = PYTHON.replace("results/digits/ipc10", "results/tiny/ipc4") + "\nprint(len(views), view.shape, hard_label.sum())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout.split() == ["160", "torch.Size([1,", "8,", "8])", "1.0"]


@pytest.mark.parametrize("target", sorted(set(re.findall(r"results/\w+/ipc\d+[\w-]*/acc\.json", README)) - OWN))
def test_targets(target, workspace):
    assert plan(*parse_target(target))[-1].stage == "publish"


# tests/runtime/test_lease.py runs leases, tests/stages/test_distilled.py imports
COMMANDS = re.findall(r"^gvbsm (?!lease|import-fkd).*$", README, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(line, made):
    if "compare" in line or "--watch" in line:  # published runs, of which there is this one here
        line = line.replace("digits/ipc10", "tiny/ipc4")
    assert cli.main(shlex.split(line, comments=True)[1:]) == 0


def test_every_command_but_stages_is_shown():
    """Of these the table of stages tells."""
    assert {line.split()[1] for line in COMMANDS} == {"compare", "explain", "estimate", "status", "verify", "gc"}


@pytest.mark.parametrize("kind", ["datasets", "recipes"])
def test_every_data_set_and_recipe_is_named(kind):
    for path in (PACKAGE.parent / "config" / kind).glob("*.yaml"):
        assert f"`{path.stem}`" in README or f"/{path.stem}/" in README, path


def test_every_setting_is_explained():
    text = (PACKAGE.parent / "config" / "README.md").read_text()

    def names(model):
        for name, value in model.items():
            yield name
            if isinstance(value, dict) and name not in ("options", "source"):
                yield from names(value)

    row = load_row("imagenet").model_dump()
    row.pop("backbones")
    row["evaluate"].pop("students")
    assert [name for name in names(row) if f"`{name}`" not in text and f"### {name}:" not in text] == []
