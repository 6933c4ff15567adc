"""check: a run that would fail in its last stage fails in its first."""

import csv
import re
from pathlib import Path

import pytest

from gvbsm.errors import UserError
from gvbsm.pipeline.graph import plan
from gvbsm.pipeline.registry import write_plans
from gvbsm.store.plans import STORE
from tests.tiny import ONE_STUDENT


def check_of(ipc: int = 4):
    return next(artifact for artifact in plan("tiny", ipc) if artifact.stage == "check")


def test_each_network_is_tried_once_as_large_as_the_row_makes_it(published_run):
    table = list(csv.DictReader((STORE / check_of().path).open()))
    spec = check_of().spec
    assert [row["network"] for row in table] == [trial.network.name for trial in spec.trials]
    assert len({str(trial) for trial in spec.trials}) == len(spec.trials)
    assert all(int(row["parameters"]) > 0 for row in table)


@pytest.mark.parametrize(
    ("ipc", "batch_size", "accumulate", "trained_with"),
    [(1, 100, 10, 1), (1, 100, 4, 2), (4, 3, 2, 2), (4, 2, 2, 1), (4, 16, 1, 2)],
)
def test_a_student_is_tried_with_a_part_of_a_batch(ipc, batch_size, accumulate, trained_with, workspace, edit_row):
    """Which may be a single image: ten images of ten classes are one batch, whatever the batch size."""
    edit_row(ONE_STUDENT)
    edit_row({"evaluate": {"batch_size": batch_size, "accumulate": accumulate}})
    assert check_of(ipc).spec.trials[-1].trained_with == trained_with


def test_schedules_do_not_change_what_is_checked(workspace, edit_row):
    before = check_of().key
    edit_row({"squeeze": {"lr": 0.02}, "evaluate": {"epochs": 7, "seeds": [4]}, "recover": {"iterations": 3}})
    assert check_of().key == before
    edit_row({"classes": 9})
    assert check_of().key != before


@pytest.mark.parametrize(
    ("changes", "ipc", "message"),
    [
        (
            {},
            1000,
            r"random baselines: expected at least 1000 training images in every class, got (\d+) in class '\w+'; ask for fewer",
        ),
        (
            {"select": {"choose": "confidence", "candidates": 50, "cells": 2}, "evaluate": {"baselines": []}},
            4,
            r"select: expected at least 800 training images in every class, got (\d+) in class '\w+'; lower select.candidates",
        ),
    ],
)
def test_too_few_images_are_known_before_the_teachers(changes, ipc, message, published_run, edit_row, make_artifact):
    base = {"crops": 1, "scale": [1.0, 1.0], "seed": 0, "threads": 1, "precision": "float32"}
    edit_row(changes | ({"select": base | changes["select"]} if "select" in changes else {}))
    with pytest.raises(UserError, match=message):
        make_artifact(check_of(ipc))


CONVNET = {"name": "convnet", "options": {"width": 4}}
WRN = {"name": "wrn16_2", "options": {"widen": 1, "depth": 10}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"backbones": [CONVNET, WRN | {"weights": "mine.pth"}]},
            r"^config/datasets/tiny\.yaml: backbones: network wrn16_2: weights data/mine\.pth: expected a file, got "
            "nothing there; put it there",
        ),
        (
            {"judge": WRN | {"weights": "deep/mine.safetensors", "label": "it"}},
            r"tiny\.yaml: judge: network wrn16_2: weights data/deep/mine\.safetensors: expected a file, got nothing there",
        ),
        (
            {"backbones": [WRN | {"weights": "text.pth"}]},
            r"tiny\.yaml: backbones: network wrn16_2: weights data/text\.pth: expected tensors alone, got a text",
        ),
        (
            {"backbones": [WRN, CONVNET], "recover": {"layers": ["batchnorm"]}},
            r"^config/datasets/tiny\.yaml: recover\.layers: expected layers of batchnorm to match in convnet, got none; add ",
        ),
        (
            {"distilled": {"images": "theirs"}},
            r"tiny\.yaml: distilled\.images: data/theirs: expected a folder or an archive, got nothing there; put it there, or",
        ),
    ],
)
def test_what_a_later_stage_would_miss_is_known_before_the_teachers(changes, message, workspace, edit_row, make_up_to):
    edit_row(ONE_STUDENT | changes)
    Path("data").mkdir()
    Path("data/text.pth").write_text("no weights")
    write_plans(plan("tiny", 4), Path("results/tiny/ipc4/acc.json"))
    with pytest.raises(UserError, match=message):
        make_up_to("check")


def test_labels_by_others_are_looked_for_too_and_a_recipes_file_is_named(workspace, edit_row, make_up_to):
    edit_row(ONE_STUDENT)
    Path("data/images").mkdir(parents=True)
    Path("config/recipes/theirs.yaml").write_text("distilled: {images: images, labels: labels, seed: 42}\n")
    message = r"^config/recipes/theirs\.yaml: distilled\.labels: data/labels: expected a folder "
    write_plans(plan("tiny", 4, "theirs"), Path("results/tiny/ipc4-theirs/acc.json"))
    with pytest.raises(UserError, match=message):
        make_up_to("check", recipe="theirs")


def test_weights_may_be_gone_once_the_teacher_is_there(workspace, edit_row, make_up_to):
    edit_row(ONE_STUDENT | {"backbones": [WRN | {"weights": "mine.pth"}]})
    (teacher,) = [artifact for artifact in plan("tiny", 4) if artifact.stage == "squeeze"]
    (STORE / "squeeze").mkdir(parents=True)
    (STORE / teacher.path).touch()
    make_up_to("check")


def test_layers_that_are_not_matched_need_not_be_there(workspace, edit_row, make_up_to):
    edit_row(ONE_STUDENT | {"backbones": [CONVNET], "recover": {"layers": ["batchnorm"], "statistics_weight": 0.0}})
    make_up_to("check")


@pytest.mark.nightly("snakemake")
def test_a_student_that_cannot_run_stops_a_run_before_its_teachers(published_run, edit_row, run_snakemake):
    edit_row(
        {
            "squeeze": {"seed": 77},
            "evaluate": {"students": [{"name": "timm:levit_128s", "label": "late", "options": {}}]},
        }
    )
    done = run_snakemake("--cores", "2")
    text = done.stdout + done.stderr
    expected = (
        r"^gvbsm: check digits failed: config/datasets/tiny\.yaml: evaluate\.students: network timm:levit_128s at 8 x 8 px"
    )
    assert done.returncode and re.search(expected, text, re.MULTILINE), text
    assert not list((STORE / "squeeze").glob("*late*")) and "0 of " in text, text


@pytest.mark.nightly("snakemake")
def test_a_lost_check_makes_nothing_else_anew(published_run, edit_row, stale):
    (STORE / check_of().path).unlink()
    assert stale() == {}
    edit_row({"evaluate": {"seeds": [5]}})
    assert set(stale()) == {"check", "evaluate", "publish"}
