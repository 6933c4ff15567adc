"""`gvbsm estimate`: jobs, bytes and hours before anything is run."""

import pytest

from gvbsm.cli import main
from gvbsm.commands import estimate as estimating
from gvbsm.pipeline.registry import STAGES
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt

TARGET = "results/tiny/ipc4/acc.json"


def table(target: str = TARGET) -> dict[str, list[str]]:
    """stage -> jobs, to run, size, hours."""
    lines = estimating.estimate(target).splitlines()
    assert lines[0].split() == ["stage", "jobs", "to", "run", "size", "hours", "to", "run"]
    return {
        line[:11].strip(): [line[11:17].strip(), line[17:25].strip(), line[25:37].strip(), line[37:51].strip()]
        for line in lines[1:]
    }


def size(text: str) -> float:
    number, unit = text.removeprefix("> ").split()
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


def header(path: str) -> int:
    with (STORE / path).open("rb") as file:
        return 8 + int.from_bytes(file.read(8), "little")


def test_artifacts_that_are_there_take_no_time(published_run):
    rows = table()
    receipts = [read_receipt(STORE / artifact.path) for artifact in published_run[:-1]]
    assert rows["all"][:2] == [str(len(receipts)), "0"] and rows["all"][3] == "0.00"
    assert size(rows["all"][2]) == pytest.approx(sum(receipt["bytes"] for receipt in receipts), rel=0.01)


def test_estimates_match_the_bytes_that_are_made_and_the_times_of_similar_jobs(published_run, edit_row, make_up_to):
    edit_row({"recover": {"seed": 5}, "relabel": {"epochs": 6, "coding": {"values": "int4", "top": 3}}})
    edit_row({"evaluate": {"epochs": 6}})
    edit_row({"select": {"choose": "confidence", "candidates": 2, "crops": 1, "scale": [0.5, 1.0], "cells": 2, "seed": 0}})
    edit_row({"select": {"threads": 1, "precision": "float32"}})
    rows = table()
    assert [rows[stage][1] for stage in ("prepare", "squeeze", "statistics")] == ["0"] * 3
    assert [rows[stage][:2] for stage in ("recover", "relabel", "evaluate")] == [["2", "2"], ["6", "6"], ["6", "6"]]
    assert rows.pop("select")[:2] == ["2", "2"]  # none has been run here: its time is not known
    assert all(rows[stage][3] not in ("unknown", "") for stage in rows if stage != "all")
    planned = make_up_to("relabel")
    select = next(artifact for artifact in planned if artifact.stage == "select")
    scale, receipt = estimating._scale(planned, 4), read_receipt(STORE / select.path)
    assert STAGES["select"].images(select.spec, scale) == receipt["images"]
    assert STAGES["select"].bytes(select.spec, scale) == receipt["bytes"] - header(select.path)
    for stage in ("recover", "relabel"):
        paths = [artifact.path for artifact in planned if artifact.stage == stage]
        made_bytes = sum(read_receipt(STORE / path)["bytes"] - header(path) for path in paths)
        assert size(rows[stage][2]) == pytest.approx(made_bytes, rel=0.005)


def test_another_form_of_the_same_images_takes_as_long_to_prepare(published_run, edit_row):
    edit_row({"image_size": 9})
    assert table()["prepare"][1:] == ["1", "unknown", "0.00"]


def test_seconds_are_those_of_the_same_work(published_run, edit_row, monkeypatch):
    """Three times the iterations take three times as long; as many images go through a job as are expected to."""
    seconds = sum(read_receipt(STORE / artifact.path)["seconds"] for artifact in published_run if artifact.stage == "recover")
    scale = estimating._scale(published_run, 4)
    for artifact in published_run[:-1]:
        counted = read_receipt(STORE / artifact.path)["images"]
        assert artifact.stage == "prepare" or STAGES[artifact.stage].images(artifact.spec, scale) == counted, artifact.path
    edit_row({"recover": {"iterations": 18}})

    def slower(path):
        return read_receipt(path) | ({"seconds": 1800 * seconds} if "recover" in str(path) else {})

    monkeypatch.setattr(estimating, "read_receipt", slower)
    assert float(table()["recover"][3]) == pytest.approx(2 * 3 * seconds * 1800 / 3600, rel=0.02)


def test_nothing_made_yet(workspace):
    rows = table()
    assert rows["recover"] == ["2", "2", "5.12 kB", "unknown"]  # 40 images of 64 bytes, label and number; ten at 3 iterations
    assert rows["squeeze"] == ["3", "3", "unknown", "unknown"]
    assert rows["all"][2].startswith("> ") and rows["all"][3] == "unknown"


def test_imagenet_without_its_images(workspace):
    """Soft labels at IPC 10, twice, for random images are labelled too: 750,000 views, or as published 3 million."""
    rows = table("results/imagenet/ipc10/acc.json")
    assert size(rows["relabel"][2]) == pytest.approx(2 * 0.75e6 * 158, rel=0.01) and 0.75e6 * 158 < 0.14e9
    assert size(table("results/imagenet/ipc10-published/acc.json")["relabel"][2]) == pytest.approx(2 * 3e6 * 2000, rel=0.01)
    assert size(rows["recover"][2]) == pytest.approx(10_000 * (3 * 224**2 + 16), rel=0.01)


def test_a_misspelt_target_is_one_line(workspace, capsys):
    assert main(["estimate", "results/tinny/ipc4/acc.json"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
