"""`gvbsm estimate`: jobs, bytes and hours before anything is run."""

import re

import pytest
import torch

from gvbsm.cli import main
from gvbsm.commands import estimate as estimating
from gvbsm.commands import rates
from gvbsm.config import networks
from gvbsm.pipeline.registry import STAGES
from gvbsm.runtime.devices import device_name
from gvbsm.store.code import PACKAGE
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


def be_on(monkeypatch, device: str) -> None:
    for module in (estimating, rates):
        monkeypatch.setattr(module, "this_device", lambda: device)


def test_nothing_made_yet(workspace, monkeypatch):
    be_on(monkeypatch, "mps: none recorded")
    rows = table()
    assert rows["recover"] == ["2", "2", "5.12 kB", "unknown"]  # 40 images of 64 bytes, label and number; ten at 3 iterations
    assert rows["squeeze"] == ["3", "3", "unknown", "unknown"]
    assert rows["all"][2].startswith("> ") and rows["all"][3] == "~ > 0.00"  # prepare's rate is recorded


def on(monkeypatch, device: str) -> list[str]:
    """The last lines of digits' estimate on a machine with this device."""
    be_on(monkeypatch, device)
    return estimating.estimate("results/digits/ipc10/acc.json").splitlines()[-2:]


def test_hours_on_a_machine_on_which_nothing_has_run(workspace, monkeypatch):
    """Three kinds of images for two students, three seeds, 60 epochs of 100 images, at the table's 365 and 410 a second."""
    rows, hours = table("results/digits/ipc10/acc.json"), 3 * 3 * 60 * 100 * (1 / 365 + 1 / 410) / 3600
    assert float(rows["evaluate"][3].removeprefix("~ ")) == pytest.approx(hours, abs=0.006)
    assert not any("unknown" in row[3] or ">" in row[3] for row in rows.values())
    *_, total = on(monkeypatch, "cpu: AMD EPYC")
    assert total.startswith("all") and "~" not in total
    for device in ("cpu: another", "mps: Apple M9"):
        total, note = on(monkeypatch, device)
        assert re.search(r" ~ 0\.\d\d$", total) and note == "~ at rates recorded on another device: cpu: AMD EPYC, one thread"


def test_the_jobs_of_this_store_come_first(published_run, edit_row, monkeypatch):
    recorded = [rate for rate in rates.recorded_rates() if rate.stage == "relabel" and rate.image_size == 16]
    tiny = ("convnet(width=4)", "resnet10(width=8)", "wrn16_2(depth=10,widen=1)")
    line = {**vars(recorded[0]), "image_size": 8, "networks": tiny, "images_per_second": 1e-3}
    monkeypatch.setattr(rates, "recorded_rates", lambda: [rates.Rate(**line)])
    edit_row({"relabel": {"seed": 5}})
    assert float(table()["relabel"][3]) < 1
    for receipt in (STORE / "relabel").glob("*.json"):
        receipt.unlink()
    assert float(table()["relabel"][3].removeprefix("~ ")) > 10


@pytest.mark.parametrize("measured_in", ["own", "twin"])
def test_a_training_that_several_teachers_share_counts_once(measured_in, workspace, edit_row, monkeypatch):
    """Kept epochs go on from one another."""
    line = {"stage": "squeeze", "image_size": 8, "networks": ("convnet(width=4)",), "images_per_second": 1.0}
    recorded = next(rate for rate in rates.recorded_rates() if rate.stage == "squeeze")
    monkeypatch.setattr(rates, "recorded_rates", lambda: [rates.Rate(**{**vars(recorded), **line})])
    edit_row({"backbones": [{"name": "convnet", "options": {"width": 4}}], "statistics": {"measured_in": measured_in}})
    edit_row({"squeeze": {"epochs": 50}})
    trainings = 2 if measured_in == "twin" else 1
    hours = float(table()["squeeze"][3].removeprefix("~ "))
    assert hours == pytest.approx(trainings * 50 * 1437 / 3600, rel=0.01)
    edit_row({"squeeze": {"keep_epochs": [1, 20, 50]}})
    rows = table()
    assert rows["squeeze"][:2] == [str(3 * trainings)] * 2
    assert float(rows["squeeze"][3].removeprefix("~ ")) == hours


def job_rate(monkeypatch, device: str, stage: str, networks: str, size: int, precision: str = "float32") -> rates.JobRate:
    be_on(monkeypatch, device)
    return rates.job_rate(STAGES[stage], tuple(networks.split()), size, precision)


def test_of_several_rates_that_of_the_device_most_like_this_one(monkeypatch):
    def rate(stage: str, device: str, precision: str) -> float:
        return job_rate(monkeypatch, device, stage, "resnet18", 32, precision).images_per_second

    assert rate("evaluate", "cuda: another", "float32") == 6011
    assert rate("evaluate", "cuda: another", "bfloat16") == 6870
    assert rate("evaluate", "cpu: another", "bfloat16") == 51
    assert rate("squeeze", "cpu: AMD EPYC", "bfloat16") == 6.1
    assert rate("statistics", "cuda: another", "float32") == 1640
    assert rate("statistics", "cpu: another", "float32") < 1640  # a GPU's would be far too fast


GPU, CPU = "cuda: one", "cpu: one"


def record(monkeypatch, *lines: tuple[str, str, int, str, float]) -> None:
    """Take these rates alone: stage, networks, image size, device, images per second."""
    table = [
        rates.Rate(stage, tuple(networks.split()), size, "float32", device, "alone", speed, "a page")
        for stage, networks, size, device, speed in lines
    ]
    monkeypatch.setattr(rates, "recorded_rates", lambda: table)


@pytest.mark.parametrize(
    ("stage", "networks", "size", "expected"),
    [
        ("recover", "a1 b1", 32, 1 / ((1 / 100 + 1 / 300) / 2)),  # one network a step
        ("relabel", "a1 b1", 32, 1 / (1 / 100 + 1 / 300)),  # each image passes through both
        ("relabel", "a1 timm:a2(width=9)", 32, 50),  # the nearest network
        ("relabel", "b1 torchvision:b1", 64, 300 / 2 / 4),  # by the pixels
        ("relabel", "b1", 8, 300),  # on a GPU small images take hardly less
        ("select", "a1 b1", 32, 7),  # on the GPU no rate of the stage is known
        ("evaluate", "a1", 32, 2 * 40),  # a share of a job with two networks
    ],
)
def test_rates_of_single_networks_come_before_those_of_another_device(stage, networks, size, expected, monkeypatch):
    jobs = [(name, "a1 b1", 32, CPU, 7) for name in ("recover", "relabel", "select")]
    singles = [
        (name, network, 32, GPU, speed) for name in ("recover", "relabel") for network, speed in (("a1", 100), ("b1", 300))
    ]
    record(monkeypatch, *jobs, *singles, ("evaluate", "a1 b1", 32, GPU, 40))
    for device in (GPU, "cuda: another"):
        assert job_rate(monkeypatch, device, stage, networks, size).images_per_second == pytest.approx(expected)
    assert job_rate(monkeypatch, "cpu: another", "recover", "a1 b1", 32).images_per_second == 7


def test_an_estimate_says_which_networks_rates_it_took(workspace, monkeypatch):
    """ImageNet's teachers have not run on an H200, but one of them has been timed there."""
    be_on(monkeypatch, "cuda: NVIDIA H200")
    text = estimating.estimate("results/imagenet/ipc10/acc.json")
    hours = next(line for line in text.splitlines() if line.startswith("recover")).split()[-1]
    assert float(hours) == pytest.approx(40e6 / 6110 / 3600, abs=0.01)
    (note,) = [line for line in text.splitlines() if line.startswith("~ recover")]
    others = ", ".join(f"torchvision:{name}" for name in ("efficientnet_b0", "mobilenet_v2", "resnet18", "shufflenet_v2_x0_5"))
    assert note == (f"~ recover at rates on cuda: NVIDIA H200, iterations alone: torchvision:resnet18 at 224 px for {others}")


def test_this_device_is_named_as_in_receipts(monkeypatch):
    monkeypatch.setenv("GVBSM_DEVICE", "cpu")
    rates.this_device.cache_clear()
    assert rates.this_device() == f"cpu: {device_name(torch.device('cpu'))}"
    rates.this_device.cache_clear()


@pytest.mark.parametrize("rate", rates.recorded_rates(), ids=lambda rate: f"{rate.stage}-{'-'.join(rate.networks)}")
def test_a_recorded_rate_is_of_networks_that_exist_and_of_a_page_that_exists(rate):
    page, _, anchor = rate.source.partition("#")
    headings = re.findall(r"^#+ (.+)$", (PACKAGE.parent / page).read_text(), re.MULTILINE)
    anchors = [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]
    assert not anchor or anchor in anchors
    assert rate.stage in STAGES and rate.images_per_second > 0 and rate.device.partition(": ")[2] and rate.conditions
    for text in rate.networks if rate.stage != "prepare" else ():
        name, _, options = text.removesuffix(")").partition("(")
        parsed = dict(option.split("=") for option in options.split(",") if option)
        networks.check(name, parsed)
        assert rates.network_text(name, parsed) == text


def test_imagenet_without_its_images(workspace):
    """Soft labels at IPC 10, twice, for random images are labelled too: 750,000 views, or as published 3 million."""
    rows = table("results/imagenet/ipc10/acc.json")
    assert size(rows["relabel"][2]) == pytest.approx(2 * 0.75e6 * 158, rel=0.01) and 0.75e6 * 158 < 0.14e9
    assert size(table("results/imagenet/ipc10-published/acc.json")["relabel"][2]) == pytest.approx(2 * 3e6 * 2000, rel=0.01)
    assert size(rows["recover"][2]) == pytest.approx(10_000 * (3 * 224**2 + 16), rel=0.01)


def test_a_misspelt_target_is_one_line(workspace, capsys):
    assert main(["estimate", "results/tinny/ipc4/acc.json"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
