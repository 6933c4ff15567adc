"""gvbsm from a wheel, without a clone: `gvbsm init` makes a folder in which snakemake runs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from gvbsm import cli
from gvbsm.store.code import PACKAGE


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> dict[str, str]:
    """The environment of a process for which gvbsm is what a wheel of this clone holds."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--target", str(folder / "packages")]
    copy = folder / "clone"  # an installation leaves build/ in the folder it is made from
    files = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=PACKAGE.parent, capture_output=True, text=True)
    for name in files.stdout.splitlines():
        if (PACKAGE.parent / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((PACKAGE.parent / name).read_bytes())
    subprocess.run([sys.executable, "-m", "pip", "install", *options, str(copy)], check=True)
    return os.environ | {"PYTHONPATH": str(folder / "packages")}


def run(environment: dict[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_working_folder_of_an_installed_package(installed, tmp_path):
    done = run(installed, tmp_path, "gvbsm", "init", "mine")
    assert done.returncode == 0 and done.stdout.endswith("cd mine && snakemake --cores all\n"), done.stderr
    mine = tmp_path / "mine"
    (mine / "config/datasets/small.yaml").write_text("extends: digits\nsqueeze: {epochs: 1}\n")
    targets = ["results/digits/ipc10/acc.json", "results/small/ipc10-edc/acc.json"]
    planned = run(installed, mine, "snakemake", "-n", "--", *targets, "results/digits/compare.csv")
    assert planned.returncode == 0, planned.stderr
    for part in ("config", "gvbsm", "workflow"):  # of the clone, in which the environment itself may lie
        assert str(PACKAGE.parent / part) not in planned.stdout + planned.stderr
    own = mine / "workflow/Snakefile"
    own.write_text(own.read_text() + "\n\nrule own:\n    output:\n        'own.txt',\n")
    default = run(installed, mine, "snakemake", "-n")  # what init says to run: config.yaml's targets
    assert default.returncode == 0 and re.search(r"^publish +1$", default.stdout, re.MULTILINE), default.stderr
    assert not re.search(r"^own ", default.stdout, re.MULTILINE)
    assert run(installed, mine, "gvbsm", "recipes").stdout.count("\n") >= 7
    (mine / "workflow/Snakefile").unlink()
    again = run(installed, tmp_path, "gvbsm", "init", "mine")
    assert again.returncode == 2 and "mine/config/config.yaml: expected no such file, got one" in again.stderr


def test_what_init_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["init"]) == 0
    assert capsys.readouterr().out.endswith("\nsnakemake --cores all\n")
    written = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*")}
    assert {"workflow/profiles/slurm/config.yaml", "config/datasets", "config/recipes", ".gitignore"} <= written
    assert yaml.safe_load(Path("config/config.yaml").read_text())["data_root"] == "data"
    schema = Path("config/config.yaml").read_text().partition("$schema=")[2].partition("\n")[0]
    assert (tmp_path / "config" / schema).is_file()


def test_a_gitignore_stays(tmp_path, capsys):
    folder = tmp_path / "my work"
    folder.mkdir()
    (folder / ".gitignore").write_text("mine")
    assert cli.main(["init", str(folder)]) == 0
    _, note, command = capsys.readouterr().out.splitlines()
    assert note == f"{folder}/.gitignore: left as it was; add to it: /.snakemake/, /data/, /results/"
    assert command == f"cd '{folder}' && snakemake --cores all" and (folder / ".gitignore").read_text() == "mine"


@pytest.mark.parametrize("there", ["config/config.yaml", "workflow/profiles/other.yaml"])
def test_nothing_is_overwritten(there, tmp_path, capsys):
    (tmp_path / there).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / there).write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert cli.main(["init", str(tmp_path)]) == 2
    assert "expected no such file, got one; name a new folder, or remove it" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
