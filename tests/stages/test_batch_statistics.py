"""relabel.batchnorm: teachers whose BatchNorm layers have the moments of the views that are labelled together."""

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from gvbsm.backbones import BACKBONES
from gvbsm.config.load import load_row
from gvbsm.config.messages import SettingsError
from gvbsm.config.shapes import NetworkShape
from gvbsm.data.image_set import load_image_set
from gvbsm.data.labels import load_labels
from gvbsm.data.pixels import Pixels
from gvbsm.errors import Interrupted
from gvbsm.method import memory
from gvbsm.method.parts import parts_measured, split_batches
from gvbsm.method.views import render
from gvbsm.pipeline.graph import plan
from gvbsm.runtime import checkpoints
from gvbsm.stages import relabel
from gvbsm.store.files import load_tensors
from gvbsm.store.job import Job, Reader
from gvbsm.store.plans import STORE
from gvbsm.training.networks import build, load_teacher, logits_of

CPU = torch.device("cpu")
# Real images as they are, so that nothing but teachers and labels takes time. 40 views in batches of 13, 13 and 14.
QUICK = {
    "select": {"choose": "random", "candidates": 1, "crops": 1, "scale": [0.5, 1.0], "cells": 1, "seed": 0}
    | {"threads": 1, "precision": "float32"},
    "recover": {"iterations": 0},
    "squeeze": {"epochs": 1},
    "relabel": {"epochs": 2, "batch_size": 13, "coding": {"values": "float32"}, "batchnorm": "batch", "batchnorm_part": 4},
    "evaluate": {"epochs": 2, "seeds": [0], "baselines": [], "students": [{"name": "convnet", "options": {"width": 4}}]},
}


def teacher_of(name: str, options: dict, batchnorm: str | None) -> nn.Module:
    shape = NetworkShape(name=name, options=options, classes=10, image_size=32, channels=3)
    network = build(shape, 3, CPU)
    generator = torch.Generator().manual_seed(5)
    for layer in network.modules():
        if isinstance(layer, _BatchNorm):  # moments that no batch has
            layer.running_mean.uniform_(-1, 1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
    return load_teacher(network.state_dict(), {"network": shape.model_dump()}, CPU, "float32", batchnorm)


# A network of each family; the others nightly.
FAMILIES = ("convnet", "wrn16_2", "resnet10", "resnet18_in", "shufflenet_v2", "timm:mobilenetv3_small_050")


def views(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    "name",
    [
        name if name in FAMILIES else pytest.param(name, marks=pytest.mark.nightly("stages"))
        for name in [*BACKBONES, "timm:resnet10t", "timm:mobilenetv3_small_050"]
    ],
)
@torch.inference_mode()
def test_moments_are_those_of_the_part_and_no_others_are_kept(name):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    options = {"width": 4} if name.startswith("convnet") else {"depth": 10, "widen": 1} if name.startswith("wrn") else {}
    teacher, own = teacher_of(name, options, "batch"), teacher_of(name, options, None)
    x, sizes = views(9), [4, 3, 2]
    (got,), (usual,) = logits_of([teacher], x, "float32", sizes), logits_of([own], x, "float32", sizes)
    torch.testing.assert_close(usual, own(x), rtol=1e-4, atol=1e-4)
    trained = teacher_of(name, options, None)
    layers = [layer for layer in trained.modules() if isinstance(layer, _BatchNorm)]
    for layer in layers:
        layer.train()
    if layers:
        torch.testing.assert_close(got, torch.cat([trained(part) for part in x.split(sizes)]))
        assert not torch.allclose(got, usual, atol=1e-3)
        assert not any("running" in buffer for buffer in dict(teacher.named_buffers()))
    else:
        assert torch.equal(got, usual)


@torch.inference_mode()
def test_a_part_is_normalised_by_its_own_mean_and_variance():
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 30 * 30, 5)).eval()
    conv, norm, _, head = teacher
    norm.weight.copy_(torch.tensor([0.5, 1.0, 2.0, -1.0]))
    norm.running_mean = norm.running_var = None
    x, expected = views(7), []
    for part in (x[:4], x[4:]):
        h = conv(part)
        mean = h.mean((0, 2, 3), keepdim=True)
        variance = ((h - mean) ** 2).mean((0, 2, 3), keepdim=True)
        h = (h - mean) / (variance + norm.eps).sqrt() * norm.weight.view(1, 4, 1, 1) + norm.bias.view(1, 4, 1, 1)
        expected.append(head(h.flatten(1)))
    torch.testing.assert_close(logits_of([teacher], x, "float32", [4, 3])[0], torch.cat(expected), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("count", "batch", "part", "expected"),
    [(32, 16, 8, [8, 8, 8, 8]), (40, 13, 4, [4, 4, 5, 4, 4, 5, 4, 4, 4, 2]), (9, 4, None, [4, 5]), (5, 16, 8, [5])],
)
def test_parts_lie_within_batches_and_none_is_a_single_view(count, batch, part, expected):
    assert parts_measured(split_batches(torch.arange(count), batch), part) == expected


def stored_logits(path: str) -> torch.Tensor:
    return load_tensors(STORE / path)[0]["values"]


@pytest.mark.nightly("stages")
def test_stored_labels_depend_neither_on_groups_of_views_nor_on_a_stop(workspace, edit_row, make_up_to, monkeypatch):
    edit_row(QUICK)
    planned = make_up_to("relabel")
    (label,) = (artifact for artifact in planned if artifact.stage == "relabel")
    whole = (STORE / label.path).read_bytes()
    _check_by_hand(label)
    for groups in (1, 2):  # batches of 13 views that are rendered together
        monkeypatch.setitem(memory.RENDERED, "cpu", groups * 13 * 64)
        out, folder = STORE / f"relabel/groups{groups}.safetensors", workspace / f"checkpoint{groups}"
        for _ in range(3):
            monkeypatch.setattr(checkpoints, "_received", [15])  # one group at a time
            with pytest.raises(Interrupted):
                relabel.run(Job(spec=label.spec, out=out, store=STORE, device="cpu", checkpoints=folder))
        monkeypatch.setattr(checkpoints, "_received", [])
        relabel.run(Job(spec=label.spec, out=out, store=STORE, device="cpu", checkpoints=folder))
        assert out.read_bytes() == whole


def _check_by_hand(label) -> None:
    """The stored logits are the mean over teachers, each of which sees the parts one after the other in training mode."""
    spec, reader = label.spec, Reader(store=STORE)
    images = load_image_set(reader, spec.inputs.images)
    labels = load_labels(reader, [label.path], images.shape[0], images.shape[-1])
    pixels, epoch = Pixels(spec.pixels, CPU), labels.epoch(1)
    x = render(images.resident(CPU), epoch.views, torch.arange(40), True, pixels.from_levels, CPU)
    logits = []
    for path in spec.inputs.teachers:
        teacher = load_teacher(*reader.tensors(path), CPU, "float32")
        for layer in teacher.modules():
            if isinstance(layer, _BatchNorm):
                layer.train()
        with torch.no_grad():
            logits.append(torch.cat([teacher(part) for part in x.split([4, 4, 5, 4, 4, 5, 4, 4, 4, 2])]))
    torch.testing.assert_close(stored_logits(label.path)[1], torch.stack(logits).mean(0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "views",
    [
        pytest.param({}, id="", marks=pytest.mark.nightly("stages")),
        pytest.param({"mix": "mixup", "mixup_labels": "unmixed", "rescale_logits": True}, id="unmixed"),
    ],
)
def test_labels_made_online_are_those_that_would_be_stored(views, workspace, edit_row, make_up_to):
    edit_row(QUICK)
    edit_row({"relabel": views})
    (stored,) = (artifact for artifact in make_up_to("evaluate") if artifact.stage == "evaluate")
    edit_row({"relabel": {"online": True}})
    (online,) = (artifact for artifact in make_up_to("evaluate") if artifact.stage == "evaluate")
    assert stored.path != online.path and online.spec.online.batchnorm_part == 4
    assert (STORE / stored.path).read_text() == (STORE / online.path).read_text()


def test_the_setting_is_part_of_the_labels_key_and_of_no_other_when_off(workspace, edit_row):
    keys = []
    for change in (
        {},
        {"batchnorm": "batch"},
        {"batchnorm": "batch", "batchnorm_part": 8},
        {"batchnorm": None, "batchnorm_part": None},
    ):
        edit_row({"relabel": change})
        keys.append([artifact.key for artifact in plan("tiny", 4) if artifact.stage == "relabel"])
    assert keys[0] == keys[3] and len({tuple(some) for some in keys}) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batchnorm_part": 8}, r"relabel: batchnorm_part: expected only with batchnorm: batch, got 8; remove it, or set"),
        (
            {"batchnorm": "batch", "batchnorm_part": 17},
            r"relabel: batch_size: expected at least 17 for batchnorm, got 16; raise it",
        ),
        ({"batchnorm": "batch", "batch_size": 1}, r"relabel: batch_size: expected at least 2 for batchnorm, got 1; raise it"),
        ({"batchnorm": "batch", "batchnorm_part": 1}, r"relabel\.batchnorm_part: expected greater than or equal to 2, got 1"),
        ({"batchnorm": "batch", "online": True}, r"relabel\.online: with batchnorm, expected students in whole batches of 16"),
    ],
)
def test_mistakes(change, message, workspace, edit_row):
    edit_row({"relabel": change, "evaluate": {"accumulate": 2}})
    with pytest.raises(SettingsError, match=message):
        load_row("tiny")
