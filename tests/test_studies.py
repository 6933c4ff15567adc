"""Recorded studies: their files are there, their runs can be planned, and every measured run is one of them."""

import csv
import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import gvbsm
from gvbsm.config.project import comparison, load_config
from gvbsm.pipeline.graph import plan_run
from gvbsm.store.code import PACKAGE

BENCHMARKS = PACKAGE.parent / "benchmarks"
STUDIES = sorted({path.parent.name for path in (BENCHMARKS / "studies").glob("*/*")} - {"__pycache__"})
COLUMNS = ("run", "dataset", "ipc", "recipe", "student", "seeds", "distilled", "random_soft", "margin", "commit")


@pytest.fixture(autouse=True)
def _in_the_project(monkeypatch):
    monkeypatch.chdir(PACKAGE.parent)


def runs_of(study: str):
    """As its compare.csv has them, whatever config.yaml compares under the same name."""
    return comparison(load_config().model_copy(update={"comparisons": None}), study)


def table_of(study: str) -> list[dict[str, str]]:
    with (BENCHMARKS / "studies" / study / "table.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_there_are_studies():
    assert len(STUDIES) >= 10


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_has_its_files_and_its_runs_can_be_planned(study):
    for name in ("study.yaml", "README.md", "table.csv"):
        assert (BENCHMARKS / "studies" / study / name).is_file(), name
    runs = runs_of(study)
    assert len({run.folder for run in runs}) == len(runs), "a run is named twice"
    for run in runs:
        assert plan_run(run)[-1].stage == "publish"


@pytest.mark.parametrize("study", STUDIES)
def test_every_measured_run_is_one_of_the_study_or_explained(study):
    """A page says why where a run that was measured once is not asked for any more."""
    page = (BENCHMARKS / "studies" / study / "README.md").read_text(encoding="utf-8")
    asked_for = {str(Path(*run.folder.parts[1:])) for run in runs_of(study)}
    table = table_of(study)
    assert table and set(COLUMNS) <= table[0].keys()
    for row in table:
        run = row["run"] if "/" in row["run"] else f"{row['dataset']}/{row['run']}"
        assert run == f"{row['dataset']}/ipc{row['ipc']}" + (f"-{row['recipe']}" if row["recipe"] else "")
        assert not row["commit"] or run in asked_for or run in page, run


def test_the_index_is_short_and_names_every_study():
    index = (BENCHMARKS / "RESULTS.md").read_text(encoding="utf-8")
    overview = (BENCHMARKS / "studies" / "README.md").read_text(encoding="utf-8")
    assert len(index.splitlines()) <= 150
    for study in STUDIES:
        assert f"studies/{study}/README.md)" in index and f"({study}/README.md)" in overview, study


def test_the_figure_of_steps_has_each_measured_point_and_no_other(tmp_path, monkeypatch):
    """Of made-up accuracies, one of them missing."""
    spec = importlib.util.spec_from_file_location("steps_figure", BENCHMARKS / "studies" / "steps_figure.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    table = pd.read_csv(BENCHMARKS / "studies" / "steps-cifar10" / "table.csv")
    table["distilled"], table["random_soft"] = 50.0 + table.index, 40.0 + table.index
    table.loc[3, "distilled"] = float("nan")
    table[["distilled_std", "random_soft_std"]] = 1.0
    weak, strong = script.figure_of(table).axes
    assert (weak.get_title(), strong.get_title()) == ("teachers of 80 %", "teachers of 86 %")
    distilled, random = (container.lines[0] for container in weak.containers)
    assert distilled.get_xdata().tolist() == [300, 1000, 4000, 20000] and distilled.get_ydata().tolist() == [50, 51, 52, 54]
    assert random.get_xdata().tolist() == [300, 1000, 4000, 10000, 20000]


def test_tiles_are_the_first_images_of_the_classes_asked_for(published_run):
    spec = importlib.util.spec_from_file_location("tiles", BENCHMARKS / "studies" / "tiles.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.main("results/tiny/ipc4", "tiles.png", "3", "0")
    data = gvbsm.load("results/tiny/ipc4")
    with Image.open("tiles.png") as picture:
        drawn = torch.from_numpy(np.array(picture))
    for place, label in enumerate((3, 0)):
        expected = data.images[torch.tensor([4 * label])][0, 0]
        assert data.labels[4 * label] == label and torch.equal(drawn[:, 8 * place : 8 * place + 8, 1], expected)
