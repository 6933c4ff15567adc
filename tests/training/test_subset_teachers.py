"""Teachers with ImageNet's 1,000 outputs on some of its classes: the outputs of these are taken, by WordNet id."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from torch import Tensor
from torchvision import models

from gvbsm.config.shapes import NetworkShape, PixelForm
from gvbsm.config.subsets import SUBSETS
from gvbsm.data.imagenet import class_ids
from gvbsm.errors import UserError
from gvbsm.pipeline.graph import plan
from gvbsm.store.files import load_tensors
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt
from gvbsm.training.networks import build, load_teacher
from gvbsm.training.pretrained import load_pretrained

CPU = torch.device("cpu")
IDS = class_ids()
PIXELS = PixelForm(image_size=64, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
NETTE = SUBSETS["imagenette"]


def shape(name: str, classes: int, size: int = 64, **options: int) -> NetworkShape:
    return NetworkShape(name=name, options=options, classes=classes, image_size=size, channels=3)


def whole_network(name: str, size: int = 64, **options: int) -> torch.nn.Module:
    """With 1,000 outputs. Two networks of one seed would agree in everything but the last layer, so the seed is another one."""
    return build(shape(name, 1000, size, **options), 7, CPU).eval()


def logits(model: torch.nn.Module, size: int) -> Tensor:
    with torch.no_grad():
        return model(torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("torchvision:shufflenet_v2_x0_5", 64),
        ("torchvision:squeezenet1_1", 64),  # the last layer is a convolution
        ("timm:resnet10t", 64),
        ("timm:deit_tiny_distilled_patch16_224", 32),  # two heads
        ("timm:tf_mobilenetv3_small_minimal_100", 64),
        ("resnet18_in", 32),
    ],
)
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_the_outputs_of_a_file(name, size, ending, tmp_path):
    whole = whole_network(name, size)
    state = {key: value.contiguous() for key, value in whole.state_dict().items()}
    if ending == "pth":  # by order, as of other names
        torch.save(
            {f"layer{i}.{key.rpartition('.')[2]}": value for i, (key, value) in enumerate(state.items())}, tmp_path / "x.pth"
        )
    else:
        save_file(state, tmp_path / f"x.{ending}")
    classes = [IDS[999], IDS[0], IDS[423]]
    model, facts, last = load_pretrained(shape(name, 3, size), f"x.{ending}", tmp_path, CPU, classes, PIXELS)
    assert facts == {"outputs_taken": [999, 0, 423]}
    expected = logits(whole, size)
    assert torch.allclose(logits(model, size), expected[:, [999, 0, 423]], atol=1e-5)
    # As recover and all others load the artifact.
    artifact = {**model.state_dict(), **last}, {"network": shape(name, 3, size).model_dump()}, CPU, "float32"
    others = [row for row in range(1000) if row not in (999, 0, 423)]
    assert torch.allclose(logits(load_teacher(*artifact, outputs="all"), size), expected[:, [999, 0, 423, *others]], atol=1e-5)
    assert torch.equal(logits(load_teacher(*artifact), size), logits(model, size))


def test_a_file_of_the_classes_alone_is_taken_as_it_is(tmp_path):
    given = build(shape("timm:resnet10t", 10), 7, CPU).eval()
    torch.save(given.state_dict(), tmp_path / "x.pth")
    model, facts, last = load_pretrained(shape("timm:resnet10t", 10), "x.pth", tmp_path, CPU, NETTE, PIXELS)
    assert facts == last == {} and torch.equal(logits(model, 64), logits(given, 64))
    teacher = load_teacher(
        given.state_dict(), {"network": shape("timm:resnet10t", 10).model_dump()}, CPU, "float32", outputs="all"
    )
    assert torch.equal(logits(teacher, 64), logits(given, 64))


def test_other_classes_than_imagenets(tmp_path):
    torch.save(whole_network("timm:resnet10t").state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"x\.pth: expected classes of ImageNet by WordNet id .*, got a class 'cat'; rename"):
        load_pretrained(shape("timm:resnet10t", 2), "x.pth", tmp_path, CPU, ["n01440764", "cat"], PIXELS)


def test_another_network_with_1000_outputs(tmp_path):
    torch.save(whole_network("timm:resnet14t").state_dict(), tmp_path / "x.pth")
    with pytest.raises(UserError, match=r"network timm:resnet10t: state dict entry '.*': expected"):
        load_pretrained(shape("timm:resnet10t", 10), "x.pth", tmp_path, CPU, NETTE, PIXELS)


def test_the_outputs_of_torchvisions_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    whole = whole_network("torchvision:shufflenet_v2_x0_5")
    (tmp_path / "checkpoints").mkdir()
    torch.save(whole.state_dict(), tmp_path / "new.pth")
    digest = hashlib.sha256((tmp_path / "new.pth").read_bytes()).hexdigest()[:8]
    (tmp_path / "new.pth").rename(tmp_path / "checkpoints" / f"shufflenet-{digest}.pth")
    weights = models.get_model_weights("shufflenet_v2_x0_5")["IMAGENET1K_V1"]
    monkeypatch.setattr(type(weights), "url", f"http://127.0.0.1:9/shufflenet-{digest}.pth")
    network = shape("torchvision:shufflenet_v2_x0_5", 10)
    model, facts, _ = load_pretrained(network, "IMAGENET1K_V1", Path("data"), CPU, NETTE, PIXELS)
    assert facts == {"weights": "IMAGENET1K_V1", "outputs_taken": [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]}
    assert torch.allclose(logits(model, 64), logits(whole, 64)[:, facts["outputs_taken"]], atol=1e-5)


def write_digits(root: Path) -> None:
    """scikit-learn's digits as images of the classes of ImageNette: digit k is the k-th class."""
    digits = load_digits()
    for i, (image, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        file = root / ("test" if i % 5 == 0 else "train") / NETTE[label] / f"{i}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((image * 255 / 16).round().astype(np.uint8)).save(file)


@pytest.mark.nightly("stages")
def test_a_wrong_mapping_is_refused(published_run, edit_row, make_artifact):
    """A teacher of digits among 1,000 outputs, at those of its classes, and at those of the same classes in another order."""
    trained = next(artifact for artifact in published_run if artifact.stage == "squeeze" and "resnet10" in artifact.name)
    tensors, metadata = load_tensors(STORE / trained.path)
    network = NetworkShape.model_validate(metadata["network"])
    whole = build(network.model_copy(update={"classes": 1000}), 7, CPU).state_dict()
    write_digits(Path("data/digits"))
    rows = torch.tensor([IDS.index(name) for name in NETTE])
    for file, places in (("right.pth", rows), ("reversed.pth", rows.flip(0))):
        for name, value in tensors.items():
            if value.shape == whole[name].shape:
                whole[name] = value
            else:
                whole[name] = torch.randn_like(whole[name])
                whole[name][places] = value
        torch.save(whole, f"data/{file}")
    source = {"kind": "imagefolder", "path": "digits"}
    given = {"name": network.name, "options": network.options}

    def squeezed(file: str) -> dict:
        edit_row({"source": source, "backbones": [given | {"weights": file}]})
        planned = plan("tiny", 4)
        for stage in ("prepare", "squeeze"):
            path = make_artifact(next(artifact for artifact in planned if artifact.stage == stage))
        return read_receipt(path)["summary"]

    summary = squeezed("right.pth")
    assert summary["outputs_taken"] == rows.tolist() and summary["top1"] > 60
    images = []
    # The recipe `ours` has views of relabel, whose labels are probabilities of the row's classes alone.
    for recover in ({"outputs": None}, {"outputs": "all"}, {"outputs": "all", "views": "relabel"}):
        edit_row({"source": source, "backbones": [given | {"weights": "right.pth"}], "recover": recover})
        planned = [artifact for artifact in plan("tiny", 4) if artifact.stage in ("statistics", "recover")]
        paths = [make_artifact(artifact) for artifact in planned]
        images.append(load_tensors(paths[-1])[0]["images"])
    assert not torch.equal(*images[:2])  # the cross-entropy counts other outputs in
    with pytest.raises(UserError, match=r"weights reversed\.pth: expected a network of the classes in this order: 'n01440764'"):
        squeezed("reversed.pth")
