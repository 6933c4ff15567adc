"""gvbsm.load: what evaluate trains on, at any batch size, in any order, by any number of workers."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

import gvbsm
from gvbsm import cli
from gvbsm.data.image_set import load_image_set
from gvbsm.data.labels import load_labels
from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import PackedImages
from gvbsm.errors import UserError
from gvbsm.method.views import mixed_hard_labels, render
from gvbsm.pipeline.registry import parse_spec
from gvbsm.stages import publish
from gvbsm.store.code import PACKAGE
from gvbsm.store.job import Job, Reader
from gvbsm.store.plans import STORE
from gvbsm.training.fit import Recipe, learning_rate, make_optimizer
from gvbsm.training.networks import accuracy, build
from tests.tiny import ONE_STUDENT

RUN = Path("results/tiny/ipc4")
CPU = torch.device("cpu")


def read_all(loader: DataLoader) -> list[torch.Tensor]:
    return [torch.cat(parts) for parts in zip(*loader, strict=True)]


def test_importing_the_package_imports_no_torch():
    program = "import sys, gvbsm; assert callable(gvbsm.load); print({'torch', 'numpy', 'pydantic'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize(
    "how",
    [
        {},
        {"mix": "mixup", "mix_alpha": 0.4, "coding": {"values": "int4", "top": 3}},
        {"mix": "none", "cells": 2, "rand_augment": {"operations": 2, "magnitude": 9}},
    ],
    ids=["cutmix", "mixup, int4 top 3", "cells, RandAugment"],
)
def test_items_are_what_evaluate_trains_on(how, published_run, edit_row, make_up_to):
    edit_row({"relabel": how} | ONE_STUDENT)
    planned = make_up_to("evaluate")
    publish.run(Job(spec=planned[-1].spec, out=RUN / "acc.json", store=STORE))
    evaluate = next(artifact for artifact in planned if artifact.stage == "evaluate" and "distilled" in artifact.name)
    reader, inputs = Reader(store=STORE), evaluate.spec.inputs
    images, at = load_image_set(reader, inputs.images), torch.arange(40)
    labels, pixels = load_labels(reader, inputs.labels, 40, 8), Pixels(evaluate.spec.pixels, CPU)
    for rest in ("mean", "mass"):
        data = gvbsm.load(RUN, rest=rest)
        epochs = [labels.epoch(number) for number in range(4)]
        views = torch.cat([render(images, epoch.views, at, True, pixels.from_levels, CPU, epoch.augment) for epoch in epochs])
        soft = torch.cat([epoch.logits(at, 10, rest) for epoch in epochs])
        hard = torch.cat([mixed_hard_labels(images.labels, epoch.views, at, 10, mixed=True) for epoch in epochs])
        for loader in (DataLoader(data, batch_size=7), DataLoader(data, batch_size=160)):
            for got, expected in zip(read_all(loader), (views, soft, hard), strict=True):
                torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)
        order = torch.randperm(160, generator=torch.Generator().manual_seed(1)).tolist()
        for got, expected in zip(read_all(DataLoader(data, batch_size=9, sampler=order)), (views, soft, hard), strict=True):
            torch.testing.assert_close(got, expected[order], rtol=0, atol=1e-6)


def test_one_item_is_as_in_a_batch(published_run):
    data = gvbsm.load(str(RUN / "acc.json"))
    view, soft, hard = data[41]
    assert view.shape == (1, 8, 8) and soft.shape == hard.shape == (10,)
    assert view.dtype == soft.dtype == hard.dtype == torch.float32
    batch = next(iter(DataLoader(data.epoch(1), batch_size=3)))
    assert all(torch.equal(value, several[1]) for value, several in zip((view, soft, hard), batch, strict=True))
    assert torch.equal(data[-1][0], data[159][0]) and torch.equal(data.epoch(5)[0][0], data[40][0])
    for index in (160, -161):
        with pytest.raises(IndexError):
            data[index]


def test_workers_make_the_same(published_run):
    data = gvbsm.load(RUN)
    expected = read_all(DataLoader(data, batch_size=16))
    for got, reference in zip(read_all(DataLoader(data, batch_size=16, num_workers=2)), expected, strict=True):
        assert torch.equal(got, reference)


@pytest.mark.nightly("pages")
def test_workers_that_share_no_memory_make_the_same(published_run):
    for split in ("train", "images", "test"):
        data = gvbsm.load(RUN, split=split)
        read = DataLoader(data, batch_size=16, num_workers=1, multiprocessing_context="spawn")
        for got, reference in zip(read_all(read), read_all(DataLoader(data, batch_size=16)), strict=True):
            assert torch.equal(got, reference)


def test_other_splits(published_run):
    data, test = gvbsm.load(RUN), gvbsm.load(RUN, split="test")
    images, labels = read_all(DataLoader(gvbsm.load(RUN, split="images"), batch_size=9))
    assert torch.equal(labels, data.labels)
    torch.testing.assert_close(data.pixels.unit(images) * 255, data.images.float())
    images, labels = read_all(DataLoader(test, batch_size=100))
    assert images.shape == (360, 1, 8, 8) and labels.shape == (360,) and labels.dtype == torch.int64
    assert data.class_names == test.class_names == list("0123456789")


def test_a_student_trained_on_loaded_items_is_that_of_evaluate(published_run):
    """The same weights at the start, the same steps: the losses of every epoch, and the accuracy."""
    spec = json.loads((RUN / "acc.json").read_text())["provenance"]["spec"]["inputs"]["students"]["convnet"]["distilled"]
    trained = parse_spec(json.loads((STORE / spec).with_suffix(".json").read_text())["spec"])
    settings, rows = trained.settings, pd.read_csv(STORE / spec).query("seed == 1")
    data, test = gvbsm.load(RUN), gvbsm.load(RUN, split="test")
    recipe = Recipe.from_settings(settings, 1)
    student = build(trained.network, 1, CPU)
    optimizer, mean_losses = make_optimizer(student, recipe), []
    for epoch in range(recipe.epochs):
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = learning_rate(recipe, epoch)
        losses = []
        for view, soft_label, hard_label in DataLoader(data.epoch(epoch), batch_size=data.batch_size):
            logits = student(view.contiguous(memory_format=torch.channels_last))
            loss = F.mse_loss(logits, soft_label) + settings.hard_weight * F.cross_entropy(logits, hard_label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        mean_losses.append(sum(losses) / len(losses))
    assert mean_losses == pytest.approx(rows["loss"].tolist(), rel=1e-4)
    student.eval()
    images, labels = read_all(DataLoader(test, batch_size=100))
    right = accuracy(student, PackedImages(images, labels, None, CPU), lambda x: x, "float32")
    assert right.top1 == pytest.approx(rows["top1"].iloc[-1], abs=100 / 360)


def test_it_says_what_it_holds(published_run):
    data, images, test = gvbsm.load(RUN), gvbsm.load(RUN, split="images"), gvbsm.load(RUN, split="test")
    first, students = repr(data).splitlines()
    assert first == (
        "LabelledViews of tiny, 4 images per class: 40 images of 1 x 8 x 8, 4 epochs of views with soft labels (float16), "
        "10 classes"
    )
    mean = json.loads((RUN / "acc.json").read_text())["students"]["convnet"]["top1"]["mean"]
    assert students.startswith(f"  students: convnet {mean:.2f} ± ") and "wrn16_2 " in students
    assert repr(images).startswith("LabelledImages of tiny, 4 images per class: 40 images of 1 x 8 x 8, 10 classes\n")
    assert repr(test).startswith("LabelledImages of tiny, 4 images per class: 360 test images of 1 x 8 x 8, 10 classes\n")
    assert cli.main(["export", str(RUN), "--to", "webdataset", "--out", "out"]) == 0
    assert repr(gvbsm.load("out")) == repr(data)
    manifest = json.loads(Path("out/gvbsm.json").read_text())
    Path("out/gvbsm.json").write_text(json.dumps(manifest | {"accuracies": {"students": {"convnet": 7}}}))
    assert repr(gvbsm.load("out")) == first


USER = """
from torch import Tensor
from torch.utils.data import DataLoader
import gvbsm
data, images = gvbsm.load("a"), gvbsm.load("a", split="images")
reveal_type(data)
reveal_type(images)
view, soft, hard = data[0]
reveal_type(view)
image, label = gvbsm.load("a", split="test")[0]
epochs: str = data.epochs
gvbsm.load("a", split="val")
image, label = data[0]
for batch in DataLoader(data.epoch(1), batch_size=2):
    pass
"""


@pytest.mark.nightly("pages")
def test_types_are_seen_by_the_type_checker_of_a_user(tmp_path):
    """As an installed package, which a type checker looks into only if it holds the marker."""
    pytest.importorskip("mypy")
    wheel = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert "py.typed" in wheel["gvbsm"] and (PACKAGE / "py.typed").is_file()
    (tmp_path / "user.py").write_text(USER)
    command = [sys.executable, "-m", "mypy", "--follow-imports=silent", "--config-file=", "user.py"]
    environment = os.environ | {"MYPYPATH": "", "PYTHONPATH": str(PACKAGE.parent)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    errors = [line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("user.py")]
    expected = [
        'note: Revealed type is "gvbsm.share.load.LabelledViews"',
        'note: Revealed type is "gvbsm.share.load.LabelledImages"',
        'note: Revealed type is "torch._tensor.Tensor"',
        'error: Incompatible types in assignment (expression has type "int", variable has type "str")  [assignment]',
    ]
    assert errors[:4] == expected, done.stdout + done.stderr
    assert errors[4].startswith('error: No overload variant of "load" matches') and "too many values" in errors[-1].lower()


def test_mistakes(published_run):
    with pytest.raises(UserError, match="load: split: expected train, images or test, got 'val'; name one of them"):
        gvbsm.load(RUN, split="val")
    with pytest.raises(UserError, match="load: rest: expected mean or mass, got 'sum'"):
        gvbsm.load(RUN, rest="sum")
    with pytest.raises(UserError, match=r"results: expected a run's folder with acc.json, or an exported one with gvbsm.json"):
        gvbsm.load("results")
    Path("broken").mkdir()
    Path("broken/acc.json").write_text("[]")
    with pytest.raises(UserError, match=r"broken/acc.json: expected what publish writes, got something else"):
        gvbsm.load("broken")


def test_a_run_is_found_by_any_path(published_run, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(RUN.resolve())
    assert len(gvbsm.load("link")) == len(gvbsm.load(RUN.resolve())) == 160
    monkeypatch.chdir(RUN)
    assert len(gvbsm.load(".")) == len(gvbsm.load("acc.json")) == 160
