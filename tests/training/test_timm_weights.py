"""timm's published weights by tag: where they are looked for, what they were trained on, and the messages without a network."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import PretrainedCfg
from torch import Tensor

from gvbsm.backbones import from_timm
from gvbsm.config.shapes import NetworkShape, PixelForm
from gvbsm.config.subsets import SUBSETS
from gvbsm.data.imagenet import class_ids
from gvbsm.errors import UserError
from gvbsm.training.networks import build
from gvbsm.training.pretrained import load_pretrained

CPU = torch.device("cpu")
NETTE = SUBSETS["imagenette"]
ROWS = [class_ids().index(name) for name in NETTE]
PIXELS = PixelForm(image_size=64, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])


@pytest.fixture(autouse=True)
def hub(tmp_path, monkeypatch) -> Path:
    """Empty folders where torch and the library of the Hugging Face Hub keep files; nothing can be downloaded."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "torch"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "torch" / "checkpoints").mkdir(parents=True)
    return tmp_path


def shape(name: str, classes: int = 10, size: int = 64) -> NetworkShape:
    return NetworkShape(name=name, options={}, classes=classes, image_size=size, channels=3)


def load(name: str, weights: str, pixels: PixelForm = PIXELS, size: int = 64) -> tuple[torch.nn.Module, dict]:
    return load_pretrained(shape(name, 10, size), weights, Path("data"), CPU, NETTE, pixels)[:2]


def state_of(name: str, size: int = 64) -> dict[str, Tensor]:
    return {key: value.contiguous() for key, value in build(shape(name, 1000, size), 7, CPU).state_dict().items()}


def kept_by_the_hub(folder: Path, repository: str, file: str) -> Path:
    """A file in the cache of the Hugging Face Hub's library."""
    of_repository = folder / "hub" / f"models--{repository.replace('/', '--')}"
    (of_repository / "refs").mkdir(parents=True)
    (of_repository / "refs" / "main").write_text("0123abcd")
    (of_repository / "snapshots" / "0123abcd").mkdir(parents=True)
    return of_repository / "snapshots" / "0123abcd" / file


@pytest.mark.parametrize(
    ("name", "weights"),
    [("timm:resnet10t", "pretrained"), ("timm:resnet10t", "c3_in1k"), ("timm:resnet10t.c3_in1k", "pretrained")],
)
@pytest.mark.parametrize("place", ["torch", "hub", "hub, in torch's format"])
def test_where_they_are_looked_for(name, weights, place, hub):
    state = state_of(name)
    if place == "torch":
        save_file(state, hub / "torch" / "checkpoints" / "resnet10t.c3_in1k.safetensors")
    elif place == "hub":
        save_file(state, kept_by_the_hub(hub, "timm/resnet10t.c3_in1k", "model.safetensors"))
    else:
        torch.save(state, kept_by_the_hub(hub, "timm/resnet10t.c3_in1k", "pytorch_model.bin"))
    model, facts = load(name, weights)
    assert facts == {"weights": "c3_in1k", "outputs_taken": ROWS} and not model.training
    assert torch.equal(model.state_dict()["fc.weight"], state["fc.weight"][ROWS])
    assert torch.equal(model.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


def test_all_thousand_classes(hub):
    state = state_of("timm:resnet10t")
    save_file(state, hub / "torch" / "checkpoints" / "resnet10t.c3_in1k.safetensors")
    model, facts, _ = load_pretrained(shape("timm:resnet10t", 1000), "c3_in1k", Path("data"), CPU, class_ids(), PIXELS)
    assert facts == {"weights": "c3_in1k"} and torch.equal(model.state_dict()["fc.weight"], state["fc.weight"])


def test_without_a_network_the_message_says_which_file_to_put_where(hub):
    place = hub / "torch" / "checkpoints" / "resnet10t.c3_in1k.safetensors"
    url = "https://huggingface.co/timm/resnet10t.c3_in1k/resolve/main/model.safetensors"
    with pytest.raises(UserError) as raised:
        load("timm:resnet10t", "pretrained")
    text = str(raised.value)
    assert text.startswith(f"network timm:resnet10t: weights 'pretrained' of timm:resnet10t: expected {place}, which could not")
    assert text.endswith(f"; put the file from {url} there") and "\n" not in text


def test_weights_that_are_on_no_hub(hub):
    config = PretrainedCfg(url="http://127.0.0.1:9/gcvit-0badc0de.pth")
    with pytest.raises(
        ValueError, match=r"x: expected .*checkpoints/gcvit-0badc0de\.pth, which could not be had: .*; put the file"
    ):
        from_timm._file("x", "gcvit.in1k", config)
    with pytest.raises(ValueError, match=r"expected the beginning of its SHA-256 in the name of http.*; name a file of yours"):
        from_timm._file("x", "gcvit.in1k", PretrainedCfg(url="http://127.0.0.1:9/gcvit.pth"))


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("timm:resnet18", "a9_in1k", r"'a9_in1k' of timm:resnet18: .* got none of that name; choose from .*a1_in1k"),
        ("timm:vit_tiny_patch16_224", "augreg_in21k", r"got 21843 classes; choose from augreg_in21k_ft_in1k"),
        ("timm:resnet10x", "pretrained", r"timm has no model 'resnet10x'"),
        ("timm:resnetv2_50x1_bit", "goog_in21k", r"got 21843 classes; choose from"),
    ],
)
def test_weights_that_there_are_not(name, weights, message):
    with pytest.raises(UserError, match=message):
        load(name, weights, size=224)


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("timm:vit_tiny_patch16_224", "[0.5, 0.5, 0.5]", "[0.5, 0.5, 0.5]"),
        ("timm:vit_base_patch32_clip_224", "[0.4815, 0.4578, 0.4082]", "[0.2686, 0.2613, 0.2758]"),
    ],
)
def test_another_normalisation_is_refused_with_the_values_to_set(name, mean, std):
    expected = f"expected images with mean {mean} and std {std}, as they were trained with, got mean [0.485, 0.456, 0.406] and"
    with pytest.raises(UserError) as raised:
        load(name, "pretrained", size=224)
    assert expected in str(raised.value) and "set the row's mean and std to these" in str(raised.value)


def test_another_size_and_interpolation_are_said(hub, capsys):
    save_file(state_of("timm:resnet10t"), hub / "torch" / "checkpoints" / "resnet10t.c3_in1k.safetensors")
    load("timm:resnet10t", "c3_in1k")
    line = "weights c3_in1k were tested by their authors on images of 224 px, bicubic, crop 0.95; here on 64 px, bilinear"
    assert capsys.readouterr().err == f"network timm:resnet10t: {line}\n"


def test_an_older_form_of_the_weights_is_adapted(hub):
    """Swin's files of before have buffers that timm's network no longer keeps."""
    name = "timm:swin_tiny_patch4_window7_224"
    state = state_of(name, 224)
    old = dict(state) | {"layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49)}
    save_file(old, hub / "torch" / "checkpoints" / "swin_tiny_patch4_window7_224.ms_in1k.safetensors")
    model, _ = load(name, "ms_in1k", size=224)
    assert torch.equal(model.state_dict()["head.fc.weight"], state["head.fc.weight"][ROWS])


def test_every_tag_of_timm_is_a_name_that_a_row_may_give():
    from gvbsm.config import networks

    for full in timm.list_pretrained():
        networks.check_weights(f"timm:{full.partition('.')[0]}", full.partition(".")[2], {})
