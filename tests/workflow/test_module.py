"""The workflow in another one, as docs/module.md shows it."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml

from gvbsm.store.code import PACKAGE
from gvbsm.store.plans import STORE

ROOT = PACKAGE.parent
PAGE = (ROOT / "docs" / "module.md").read_text()
FILES = dict(re.findall(r"```\w+\n# (\S+)\n(.*?)```", PAGE, re.DOTALL))
TAKEN = "use rule * from gvbsm as gvbsm_*"
NAMED = {"as": TAKEN, "plain": "use rule * from gvbsm exclude all"}


@pytest.fixture
def study(tmp_path, monkeypatch):
    """The page's folder, the clone beside it. Data sets and recipes are the clone's."""
    (tmp_path / "gvbsm").symlink_to(ROOT)
    for name, text in FILES.items():
        file = tmp_path / "study" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    monkeypatch.chdir(tmp_path / "study")
    return tmp_path / "study"


def snakemake(*arguments: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GVBSM_DEVICE": "cpu"}
    command = [sys.executable, "-m", "snakemake", *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def planned(text: str) -> dict[str, int]:
    table = text.partition("Job stats:")[2].partition("total")[0]
    return {rule: int(count) for rule, count in re.findall(r"^(\w+)\s+(\d+)\s*$", table, re.MULTILINE)}


@pytest.mark.parametrize("named", NAMED)
def test_its_jobs_are_planned_for_a_rule_of_another(named, study):
    snakefile = study / "Snakefile"
    assert TAKEN in snakefile.read_text()
    snakefile.write_text(snakefile.read_text().replace(TAKEN, NAMED[named]))
    jobs = {"prepare": 1, "check": 1, "squeeze": 3, "statistics": 3, "recover": 2, "relabel": 2, "evaluate": 6, "publish": 1}
    prefix = "gvbsm_" if named == "as" else ""
    assert planned(snakemake("-n")) == {f"{prefix}{rule}": count for rule, count in jobs.items()} | {"best": 1}
    assert f"{sum(jobs.values())} jobs of ours" in PAGE


@pytest.mark.nightly("snakemake")
def test_rows_of_the_other_workflow_and_settings_without_config(study):
    """Its own data sets with the clone's recipes; the settings from config/config.yaml, that are ours alone."""
    settings = yaml.safe_load(FILES["config/config.yaml"])["gvbsm"] | {"targets": ["results/own/ipc10-sre2l/acc.json"]}
    Path("config/config.yaml").write_text(yaml.safe_dump(settings))
    Path("config/datasets").mkdir()
    Path("config/datasets/own.yaml").write_text((ROOT / "config" / "datasets" / "digits.yaml").read_text())
    Path("Snakefile").write_text(
        f'module gvbsm:\n    snakefile: "../gvbsm/workflow/Snakefile"\n{TAKEN.replace(" as gvbsm_*", "")}\n'
    )
    assert planned(snakemake("-n", "all"))["publish"] == 1


@pytest.mark.nightly("snakemake")
def test_its_jobs_run_in_the_others_folder_and_change_nothing_of_the_others_commands(study):
    with Path("Snakefile").open("a") as file:
        file.write('\n\nrule echo:\n    output: "{name} of mine.txt"\n    shell: "echo made > {output:q}"\n')
    snakemake("-n")
    (plan,) = [plan.stem for plan in Path("results/.plan").glob("*.json") if '"stage": "prepare"' in plan.read_text()]
    data = STORE / "prepare" / f"digits-{plan}.safetensors"
    output = snakemake("--cores", "1", "--printshellcmds", str(data), "a b of mine.txt")
    assert data.exists() and Path("a b of mine.txt").read_text() == "made\n"
    assert Counter(re.findall(r"gvbsm prepare|export", output)) == {"gvbsm prepare": 1}
