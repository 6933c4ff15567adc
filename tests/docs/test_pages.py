"""The README and the pages: links lead somewhere, programs compile, and every command runs as it stands.

A block that begins with a comment with a path is that file, a diff is a change of the clone, and the other blocks of bash and
Python are run one after another, in a clone whose digits row is small and has been made. The few that are not are marked:
"no-run", where the page says why, and "slurm", which wants a cluster.
"""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.utils.data import BatchSampler, RandomSampler

from gvbsm.config.labels import Coding
from gvbsm.config.targets import parse_target
from gvbsm.pipeline.graph import plan, plan_run
from gvbsm.store.code import PACKAGE

ROOT = PACKAGE.parent
PAGES = {
    str(path.relative_to(ROOT)): path.read_text()
    for path in (
        *sorted(ROOT.glob("[CRS]*.md")),
        *sorted((ROOT / "config").rglob("*.md")),
        *sorted((ROOT / "docs").glob("*.md")),
    )
}
MEASURED = {str(path.relative_to(ROOT)): path.read_text() for path in sorted((ROOT / "benchmarks").rglob("*.md"))}
# Installations, which .ci/run has; conda, Apptainer; what has a test of its own; hours of training.
NOT_RUN = {
    "README.md": 1,
    "CONTRIBUTING.md": 1,
    "docs/recipes.md": 1,
    "docs/quickstart.md": 1,
    "docs/cluster.md": 2,
    "docs/ddranking.md": 2,
    "docs/imagenet.md": 2,
}
TARGET = re.compile(r"results/\w+/ipc\d+[\w-]*/acc\.json")

# One job of most stages, of a second or two.
SMALL: dict[str, Any] = {
    "backbones": [
        {"name": "convnet", "options": {"width": 4}},
        {"name": "resnet10", "label": "resnet18", "options": {"width": 8}},  # the recipe sre2l asks for one of this label
    ],
    "squeeze": {"epochs": 1},
    "recover": {"iterations": 3, "batch_size": 100},
    "relabel": {"epochs": 2},
    "evaluate": {
        "students": [
            {"name": "convnet", "options": {"width": 4}},
            {"name": "convnet", "label": "wrn10_1", "options": {"width": 2}},
        ],
        "seeds": [0],
        "baselines": [],
        "epochs": 2,
    },
}


class Block(NamedTuple):
    """The text between two fences of three backticks."""

    language: str
    mark: str
    text: str

    @property
    def file(self) -> str | None:
        """The path in its first line, if it is a file."""
        named = re.match(r"# ((?:[\w.-]+/)*(?:[\w-]+\.\w+|Snakefile))\n", self.text)
        return named[1] if named and self.language in ("python", "yaml", "snakemake") else None


def blocks(page: str) -> list[Block]:
    return [Block(*parts) for parts in re.findall(r"^```(\w*) ?(\S*)\n(.*?)^```$", PAGES[page], re.DOTALL | re.MULTILINE)]


def headings(page: str) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```$", "", (ROOT / page).read_text(), flags=re.DOTALL | re.MULTILINE)
    titles = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in titles}


@pytest.mark.parametrize("page", PAGES | MEASURED)
def test_links_lead_somewhere(page):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)|<img src=\"([^\"]+)", (PAGES | MEASURED)[page]):
        path, _, anchor = next(filter(None, link)).partition("#")
        target = (ROOT / page).parent / path if path else ROOT / page
        assert target.exists(), link
        if anchor:
            assert anchor in headings(str(target.resolve().relative_to(ROOT))), link


NAMED = re.compile(r"(?<![\w./>-])(?:docs|config|benchmarks)/[\w/-]+\.md(?:#[\w-]+)?")


def test_pages_that_code_and_settings_name_are_there():
    """In comments, docstrings, messages and tables: nothing else follows these when a page moves."""
    gone, seen = [], set()
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for path in tracked:
        if path.startswith("tests/") or not path.endswith(
            (".py", ".smk", ".yaml", ".yml", ".csv", ".sh", ".toml", "Snakefile")
        ):
            continue
        for name in NAMED.findall((ROOT / path).read_text(encoding="utf-8")):
            page, _, anchor = name.partition("#")
            seen.add(page)
            if not (ROOT / page).is_file() or (anchor and anchor not in headings(page)):
                gone.append(f"{path}: {name}")
    assert gone == []
    assert {"docs/soft-labels.md", "benchmarks/speed/rates.md", "config/README.md"} <= seen  # code, a table, mkdocs.yml


def test_every_page_is_in_the_index():
    for page in PAGES:
        name = Path(page).name
        assert page in ("README.md", "docs/README.md", "CHANGELOG.md") or f"{name})" in PAGES["docs/README.md"], page


@pytest.mark.parametrize("page", PAGES)
def test_every_block_is_run_or_says_that_it_is_not(page):
    all_blocks = blocks(page)
    assert 2 * len(all_blocks) == len(re.findall(r"^```", PAGES[page], re.MULTILINE)), "a block that is not closed, or indented"
    assert sum(block.mark == "no-run" for block in all_blocks) == NOT_RUN.get(page, 0)
    for block in all_blocks:
        assert block.mark in ("", "no-run") or (page, block.mark) == ("docs/cluster.md", "slurm")
        assert block.language in ("bash", "diff", "") or block.language == "python" or block.file, block
        if block.language == "bash":
            subprocess.run(["bash", "-n", "-c", block.text], check=True)
            assert not re.search(r"^\s*#", block.text, re.MULTILINE), "a comment alone would look like a file"
        elif block.language == "python":
            compile(block.text, page, "exec")


def test_installations_that_are_not_run_here_are_what_the_check_runs():
    check = "\n".join((ROOT / ".ci" / name).read_text() for name in ("run", "parts.sh"))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert re.search(r"^pip install --quiet -e \.$.*^pip install --quiet -e \"\.\[dev\]\"$.*^pytest\b", check, re.M | re.S)
    assert "gvbsm[test]" in extras["dev"]
    for page in ("README.md", "docs/quickstart.md"):
        (block,) = [block for block in blocks(page) if block.mark and "pip install" in block.text]
        parts = [part.strip() for part in re.split("&&|\n", block.text.strip())]
        assert parts[:3] == ["python3 -m venv .venv", ". .venv/bin/activate", "pip install -e ."]
        assert all(re.search(rf"^\s*{re.escape(part)}", check, re.MULTILINE) for part in (*parts[:2], parts[3]))


def test_the_commands_of_accuracies_name_studies():
    marked = "".join(block.text for block in blocks("docs/recipes.md") if block.mark)
    named = re.findall(r"results/([\w-]+)/compare\.csv", marked)
    assert len(named) >= 2
    assert all((ROOT / "benchmarks" / "studies" / name / "study.yaml").exists() for name in named)


@pytest.mark.parametrize("page", [page for page in PAGES if not any(block.language == "diff" for block in blocks(page))])
def test_targets_can_be_planned(page, workspace):
    """Without the changes of the code that two pages make first."""
    for block in blocks(page):
        if block.file and block.language == "yaml" and "gvbsm:" not in block.text:
            Path(block.file).write_text(block.text)
    for target in sorted({target for block in blocks(page) for target in TARGET.findall(block.text)}):
        assert plan_run(parse_target(target))[-1].stage == "publish"


def test_what_the_files_of_the_pages_ask_for(workspace):
    for block in [block for name in ("own-data", "distilled-sets", "soft-labels") for block in blocks(f"docs/{name}.md")]:
        if block.file:
            Path(block.file).write_text(block.text)
    stages = {artifact.stage for artifact in plan("imagenet", 10, "sre2l_published")}
    assert {"adopt", "convert"} <= stages and "recover" not in stages
    labels = [artifact.spec for artifact in plan("imagenet", 10, "whole") if artifact.stage == "relabel"]
    assert labels and all(spec.settings.coding == Coding(values="float16", top=None) for spec in labels)
    assert max(spec.epochs[1] for spec in labels) == 300
    assert {artifact.spec.source.path for artifact in plan("mine", 10) if artifact.stage == "prepare"} == {"mine"}
    (weights,) = [artifact.spec.weights for artifact in plan("photographs", 10) if artifact.stage == "squeeze"]
    assert weights == "mine.pth"


@pytest.fixture(scope="session")
def small_clone(shared_folder) -> Path:
    """A clone, as a reader has it after the first command, but with a small digits row."""

    def make_it(folder: Path) -> None:
        for part in ("gvbsm", "snakemake_logger_plugin_gvbsm", "workflow", "config", "examples"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.sif"))
        row = folder / "config" / "datasets" / "digits.yaml"
        row.write_text(yaml.safe_dump(_laid_over(yaml.safe_load(row.read_text()), SMALL)))
        run(["snakemake", "--cores", "2"], folder, folder)

    return shared_folder("small", make_it)


def _laid_over(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    return base | {name: _laid_over(base[name], value) if isinstance(value, dict) else value for name, value in changes.items()}


def run(command: list[str], folder: Path, clone: Path, **variables: str) -> None:
    """Run a command with this environment's programs and the clone's package."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(clone), "GVBSM_DEVICE": "cpu"} | variables
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"


def run_blocks(page: str, folder: Path, clone: Path, mark: str = "", **variables: str) -> None:
    """Write the files, apply the changes, and run the programs and commands of a page, in their order."""
    for block in blocks(page):
        if block.file:
            (folder / block.file).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.file).write_text(block.text)
        elif block.language == "diff":
            (folder / "change.patch").write_text(block.text)
            run(["git", "apply", "change.patch"], folder, clone)
        elif block.mark == mark and block.language in ("bash", "python"):
            interpreter = ["bash", "-euo", "pipefail", "-c"] if block.language == "bash" else [sys.executable, "-c"]
            run([*interpreter, block.text], folder, clone, **variables)


def save_images(folder: Path, classes: int, count: int, size: int) -> None:
    """`count` images in a folder of every class."""
    draw = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"new{label:03d}").mkdir(parents=True)
        for number in range(count):
            pixels = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"new{label:03d}" / f"{number}.png")


def save_own_data(clone: Path) -> None:
    """The images that own-data.md asks for: three classes."""
    save_images(clone / "data/mine/train", classes=3, count=12, size=40)
    save_images(clone / "data/mine/test", classes=3, count=4, size=40)


def save_distilled_set(clone: Path) -> None:
    """The images that distilled-sets.md asks for, by others, with one epoch of labels."""
    others, count = clone / "data" / "sre2l", 10
    save_images(others / "ipc10", classes=10, count=count, size=32)
    labels, epoch = torch.arange(10).repeat_interleave(count), others / "FKD_cutmix_fp16" / "epoch_0"
    epoch.mkdir(parents=True)
    order = RandomSampler(labels, generator=torch.Generator().manual_seed(42))
    for number, index in enumerate(BatchSampler(order, 25, drop_last=False)):
        crops, logits = torch.tensor([0.0, 0.0, 1.0, 1.0]).repeat(len(index), 1), 6 * torch.eye(10)[labels[index]].half()
        saved = [crops, torch.zeros(len(index), dtype=torch.bool), None, None, None, logits]
        torch.save(saved, epoch / f"batch_{number}.tar")


DIFFS = [(page, number) for page in PAGES for number, block in enumerate(blocks(page)) if block.language == "diff"]


@pytest.mark.parametrize(("page", "number"), DIFFS)
def test_every_change_applies_to_the_code_as_it_is(page, number, tmp_path):
    patch = tmp_path / "change.patch"
    patch.write_text(blocks(page)[number].text)
    done = subprocess.run(["git", "apply", "--check", patch], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{page}\n{done.stderr}"


BEFORE: dict[str, Callable[[Path], None]] = {
    "docs/own-data.md": save_own_data,
    "docs/distilled-sets.md": save_distilled_set,
}
FOLDER = {"docs/module.md": "study"}  # else the clone's


@pytest.mark.nightly("pages")
@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(not block.mark and block.language in ("bash", "python") for block in blocks(page))]
)
def test_every_command_runs_as_it_stands(page, small_clone, tmp_path):
    clone = tmp_path / "gvbsm"
    shutil.copytree(small_clone, clone)
    folder = tmp_path / FOLDER.get(page, "gvbsm")
    folder.mkdir(exist_ok=True)
    BEFORE.get(page, lambda clone: None)(clone)
    run_blocks(page, folder, clone)


@pytest.mark.nightly("slurm")
def test_the_commands_for_slurm_run_as_they_stand(cluster, small_clone, tmp_path):
    clone = tmp_path / "gvbsm"
    shutil.copytree(small_clone, clone, ignore=shutil.ignore_patterns("results", ".snakemake"))
    profile = tmp_path / "profile" / "config.yaml"  # of a cluster without accounts, asked often
    profile.parent.mkdir()
    often = {"slurm-init-seconds-before-status-checks": 2, "seconds-between-status-checks": 2}
    profile.write_text(yaml.safe_dump({"slurm-no-account": True, **often}))
    run_blocks("docs/cluster.md", clone, clone, mark="slurm", SNAKEMAKE_PROFILE=str(profile.parent))
    assert (clone / "results/digits/ipc10/acc.json").exists()
