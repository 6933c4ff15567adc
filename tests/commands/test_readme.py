"""What the README shows can be done; tests/docs runs all of it, as it stands there."""

import json
import re
import shlex
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from gvbsm import cli
from gvbsm.store.code import PACKAGE

README = (PACKAGE.parent / "README.md").read_text()
(PYTHON,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def train(seed: int = 0, **changes: str) -> float:
    """The accuracy in percent that the README's program prints; `changes` replaces settings in it."""
    program = f"import torch; torch.manual_seed({seed}); torch.set_num_threads(1)\n{PYTHON}"
    for name, value in changes.items():
        program, before = re.sub(rf"\b{name}=[\w.-]+", f"{name}={value}", program), program
        assert program != before, f"no {name}"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(done.stdout.removesuffix(" %\n"))


def test_the_program_that_trains_a_student_runs_and_is_short(published_run):
    lines = [line for line in PYTHON.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(lines) <= 15
    Path("results/digits").mkdir()
    Path("results/digits/ipc10").symlink_to(Path("results/tiny/ipc4").resolve())
    assert 0 <= train(image_size="8", width="4", batch_size="16") <= 100


@pytest.mark.nightly("pages")
def test_the_program_that_trains_a_student_reaches_what_evaluate_does(run_snakemake):
    done = run_snakemake("--cores", "2", target="results/digits/ipc10/acc.json")
    assert done.returncode == 0, done.stderr
    published = json.loads(Path("results/digits/ipc10/acc.json").read_text())["students"]["convnet"]["top1"]
    accuracies = [train(seed) for seed in range(3)]
    # Both means are of three seeds; two test images' worth of percent where the spread is smaller than can be measured.
    spread = max(published["std"], statistics.stdev(accuracies), 200 / 360)
    assert abs(statistics.fmean(accuracies) - published["mean"]) <= 2 * spread


COMMANDS = re.findall(r"^gvbsm .*$", README, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_commands(line, published_run):
    if re.search("compare|export|report|--watch", line):  # published runs, of which there is this one here
        line = line.replace("digits/ipc10", "tiny/ipc4")
    assert cli.main(shlex.split(line, comments=True)[1:]) == 0


def test_every_command_but_stages_is_shown():
    """The README's table of stages shows the stages."""
    shown = {"compare", "explain", "export", "report", "estimate", "status", "verify", "gc"}
    shown |= {"settings", "networks", "datasets", "recipes"}
    assert {line.split()[1] for line in COMMANDS} == shown


@pytest.mark.parametrize("kind", ["datasets", "recipes"])
def test_every_data_set_and_recipe_is_named(kind):
    for path in (PACKAGE.parent / "config" / kind).glob("*.yaml"):
        assert f"`{path.stem}`" in README or f"/{path.stem}/" in README, path
