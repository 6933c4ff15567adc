"""Teachers with weights of their own: published ones where torch looks for them, and local files."""

import hashlib
import pickle
import re
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision import models

from gvbsm.backbones.build import build as build_network
from gvbsm.backbones.weights import load_by_order, load_own, without_auxiliary
from gvbsm.config.load import load_row
from gvbsm.config.shapes import NetworkShape, PixelForm
from gvbsm.data.imagenet import _names, class_ids
from gvbsm.errors import UserError
from gvbsm.training import pretrained
from gvbsm.training.networks import build

CPU = torch.device("cpu")
NETWORK = NetworkShape(name="torchvision:shufflenet_v2_x0_5", classes=1000, image_size=224, channels=3, options={})
SMALL = NetworkShape(name="wrn16_2", classes=3, image_size=8, channels=1, options={"depth": 10, "widen": 1})
WNIDS = class_ids()


def load_pretrained(network: NetworkShape, weights: str, root: Path, classes: list[str]) -> torch.nn.Module:
    pixels = PixelForm(image_size=network.image_size, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    return pretrained.load_pretrained(network, weights, root, CPU, classes, pixels)[0]


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """An empty folder where torch looks for downloaded weights; nothing can be downloaded."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    (tmp_path / "checkpoints").mkdir()
    weights = models.get_model_weights("shufflenet_v2_x0_5")["IMAGENET1K_V1"]
    monkeypatch.setattr(type(weights), "url", "http://127.0.0.1:9/shufflenet-0badc0de.pth")
    return tmp_path / "checkpoints"


def offer(hub: Path, state: dict[str, torch.Tensor], monkeypatch) -> None:
    """A file of weights where torch looks, under a name that holds the beginning of its hash."""
    torch.save(state, hub / "new.pth")
    digest = hashlib.sha256((hub / "new.pth").read_bytes()).hexdigest()[:8]
    (hub / "new.pth").rename(hub / f"shufflenet-{digest}.pth")
    weights = models.get_model_weights("shufflenet_v2_x0_5")["IMAGENET1K_V1"]
    monkeypatch.setattr(type(weights), "url", f"http://127.0.0.1:9/shufflenet-{digest}.pth")


def test_published_weights_from_where_torch_keeps_them(hub, monkeypatch):
    state = build(NETWORK, 5, CPU).state_dict()
    offer(hub, state, monkeypatch)
    model = load_pretrained(NETWORK, "IMAGENET1K_V1", Path("data"), WNIDS)
    assert not model.training
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())


def test_published_weights_that_are_damaged_or_not_there(hub, monkeypatch):
    with pytest.raises(
        UserError, match=r"expected .*shufflenet-0badc0de\.pth, which could not be had: .*put the file from http"
    ):
        load_pretrained(NETWORK, "IMAGENET1K_V1", Path("data"), WNIDS)
    (hub / "shufflenet-0badc0de.pth").write_bytes(b"half a download")
    with pytest.raises(UserError, match=r"expected SHA-256 0badc0de\.\.\., got \w{8}\.\.\.; delete it, or put the file"):
        load_pretrained(NETWORK, "IMAGENET1K_V1", Path("data"), WNIDS)
    torch.save({"x": torch.zeros(1)}, hub / "shufflenet-0badc0de.pth")
    with pytest.raises(UserError, match=r"expected SHA-256 0badc0de\.\.\., got \w{8}\.\.\.; delete it"):
        load_pretrained(NETWORK, "IMAGENET1K_V1", Path("data"), WNIDS)


def test_published_weights_of_another_hash_are_not_read(hub, served, monkeypatch):
    """Neither a download nor a file that is there already."""
    folder, address = served
    torch.save({"x": Payload()}, folder / "shufflenet-0badc0de.pth")
    weights = models.get_model_weights("shufflenet_v2_x0_5")["IMAGENET1K_V1"]
    monkeypatch.setattr(type(weights), "url", f"{address}/shufflenet-0badc0de.pth")
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the file was read"))
    with pytest.raises(UserError, match=r'could not be had: invalid hash value \(expected "0badc0de"'):
        load_pretrained(NETWORK, "IMAGENET1K_V1", Path("data"), WNIDS)
    assert list(hub.iterdir()) == []
    (hub / "shufflenet-0badc0de.pth").write_bytes((folder / "shufflenet-0badc0de.pth").read_bytes())
    with pytest.raises(UserError, match=r"expected SHA-256 0badc0de"):
        load_pretrained(NETWORK, "IMAGENET1K_V1", Path("data"), WNIDS)


def test_every_published_file_of_weights_is_named_by_its_hash():
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            assert re.search(r"-[0-9a-f]{8,}\.pth$", weights.url), weights.url


RESCALED = {"transform_input": True, "init_weights": False}


@pytest.mark.parametrize(
    ("name", "size"), [("googlenet", 64), pytest.param("inception_v3", 96, marks=pytest.mark.nightly("stages"))]
)
@pytest.mark.parametrize("classes", [pytest.param(WNIDS, marks=pytest.mark.nightly("stages")), WNIDS[5:8]], ids=len)
@pytest.mark.parametrize("weights", [pytest.param("IMAGENET1K_V1", marks=pytest.mark.nightly("stages")), "mine.pth"])
def test_weights_with_outputs_for_training_alone(name, size, classes, weights, hub, monkeypatch):
    """torchvision's file has the auxiliary outputs, and its network brings images into the range that it was trained on."""
    torch.manual_seed(5)
    theirs = models.get_model(name, init_weights=False, transform_input=True, aux_logits=True).eval()
    torch.save(theirs.state_dict(), hub / "mine.pth")
    digest = hashlib.sha256((hub / "mine.pth").read_bytes()).hexdigest()[:8]
    (hub / f"{name}-{digest}.pth").hardlink_to(hub / "mine.pth")
    monkeypatch.setattr(type(models.get_model_weights(name)["IMAGENET1K_V1"]), "url", f"http://127.0.0.1:9/{name}-{digest}.pth")
    network = NetworkShape(name=f"torchvision:{name}", classes=len(classes), image_size=size, channels=3, options=RESCALED)
    model = load_pretrained(network, weights, hub, classes)
    x_BCHW = torch.randn(2, 3, size, size)
    rows = [WNIDS.index(wordnet_id) for wordnet_id in classes]
    with torch.inference_mode():
        torch.testing.assert_close(model(x_BCHW), theirs(x_BCHW)[:, rows], rtol=1e-3, atol=1e-5)


def test_timms_file_of_inception_has_them_too():
    """`tv_in1k` is torchvision's."""
    with torch.device("meta"):
        model = build_network("timm:inception_v3", classes=1000, image_size=299)
        theirs = timm.create_model("inception_v3", pretrained=False, aux_logits=True).state_dict()
    assert len(theirs) > len(model.state_dict())
    load_by_order(model, without_auxiliary(model, theirs))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_planning_asks_for_the_range_that_weights_were_trained_on(name, workspace, edit_row):
    backbone = {"name": f"torchvision:{name}", "weights": "IMAGENET1K_V1"}
    for options in ({}, {"transform_input": False}):
        edit_row({"backbones": [backbone | {"options": options}]}, "imagenette")
        with pytest.raises(
            UserError, match=r"backbones\[0\]: options.transform_input: expected true with weights IMAGENET1K_V1"
        ):
            load_row("imagenette")
    edit_row({"backbones": [backbone | {"options": {"transform_input": True}}]}, "imagenette")
    load_row("imagenette")


def smallest_of_each_family() -> list[str]:
    """torchvision's smallest network of every module."""
    smallest: dict[str, tuple[int, str]] = {}
    for name in models.list_models(module=models):
        size = min(weights.meta["num_params"] for weights in models.get_model_weights(name))
        family = models.get_model_builder(name).__module__
        smallest[family] = min(smallest.get(family, (size, name)), (size, name))
    return sorted(name for _, name in smallest.values())


@pytest.mark.parametrize("name", ["mnasnet1_3", *smallest_of_each_family()])
def test_networks_of_every_family_take_their_own_weights_from_files(name):
    """As a teacher's artifact, as a checkpoint, and as a file of weights: none of them has the versions of layers."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    network = NetworkShape(name=f"torchvision:{name}", classes=3, image_size=96, channels=3, options=options)
    with torch.device("cpu" if name.startswith("regnet") else "meta"):  # which asks tensors for numbers
        model = build_network(network.name, **network.model_dump(exclude={"name", "options"}), **options)
    state = {entry: torch.zeros_like(value) for entry, value in model.state_dict().items()}
    load_own(model, state)
    load_by_order(model, {f"module.{entry}": value for entry, value in state.items()})


@pytest.mark.parametrize("option", ["checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"])
def test_a_library_loads_no_weights_by_an_option(option, tmp_path, monkeypatch):
    """They would be read without our checks."""
    monkeypatch.chdir(tmp_path)
    torch.save({"x": Payload()}, tmp_path / "bad.pth")
    network = NetworkShape(name="timm:resnet10t", classes=3, image_size=32, channels=3, options={option: "bad.pth"})
    with pytest.raises(
        UserError, match=rf"expected options of the network, got '{option}'; name a file of weights in `weights`"
    ):
        build(network, 0, CPU)
    network = NETWORK.model_copy(update={"options": {"weights": "IMAGENET1K_V1"}})
    with pytest.raises(UserError, match=r"^network torchvision:shufflenet_v2_x0_5 with options .*; correct the row$"):
        build(network, 0, CPU)
    assert not Path("was_executed").exists()


@pytest.mark.parametrize("classes", [["cat", *WNIDS[1:]], [*WNIDS[:9], "n00000001"]])
def test_published_weights_know_imagenet_alone(hub, classes):
    network = NETWORK.model_copy(update={"classes": len(classes)})
    other = next(name for name in classes if name not in WNIDS)
    with pytest.raises(UserError, match=rf"IMAGENET1K_V1: expected classes of ImageNet .*, got a class '{other}'"):
        load_pretrained(network, "IMAGENET1K_V1", Path("data"), classes)


def test_unknown_weights_are_refused_with_the_known_ones():
    with pytest.raises(
        UserError, match=r"'IMAGENET1K_V9' of torchvision:shufflenet_v2_x0_5: unknown; choose from IMAGENET1K_V1"
    ):
        load_pretrained(NETWORK, "IMAGENET1K_V9", Path("data"), WNIDS)
    with pytest.raises(UserError, match=r"expected a \.pth, \.pt or \.safetensors file, got 'IMAGENET1K_V1'"):
        load_pretrained(SMALL, "IMAGENET1K_V1", Path("data"), ["a", "b", "c"])


def test_weights_are_checked_without_a_download(hub):
    pixels = PixelForm(image_size=224, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    pretrained.check_weights(NETWORK, "IMAGENET1K_V1", Path("data"), WNIDS, pixels)
    assert not [*hub.iterdir()]
    grey = pixels.model_copy(update={"mean": [0.5] * 3})
    for weights, form, message in (
        ("IMAGENET1K_V9", pixels, "^network torchvision:shufflenet_v2_x0_5: .* unknown; choose from IMAGENET1K_V1"),
        ("IMAGENET1K_V1", grey, "^network torchvision:shufflenet_v2_x0_5: .*expected images with mean"),
        ("mine.pth", pixels, "expected a file, got nothing there"),
    ):
        with pytest.raises(UserError, match=message):
            pretrained.check_weights(NETWORK, weights, Path("data"), WNIDS, form)


@pytest.mark.parametrize("wrapped", [None, "state_dict", "model"])
@pytest.mark.parametrize("name", ["squeeze_wrn.pth", "teacher.safetensors"])
def test_a_local_file(name, wrapped, tmp_path):
    state = build(SMALL, 5, CPU).state_dict()
    renamed = {f"module.layer{i}.{key.rpartition('.')[2]}": value.contiguous() for i, (key, value) in enumerate(state.items())}
    if name.endswith("pth"):
        torch.save(renamed if wrapped is None else {wrapped: renamed, "epoch": 3}, tmp_path / name)
    else:
        save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / name)
    model = load_pretrained(SMALL, name, tmp_path, ["a", "b", "c"])
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())


class Payload:
    """Executes code when it is unpickled."""

    def __reduce__(self):
        return Path.touch, (Path("was_executed"),)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: None, r"bad\.pth: expected a file, got nothing there"),
        (lambda path: path.write_bytes(b"\xc7half"), r"bad\.pth: damaged"),
        (lambda path: path.write_bytes(pickle.dumps({"x": Payload()})), r"bad\.pth: .*got a pickle that torch did not write;"),
        (lambda path: torch.save({"x": Payload()}, path), r"bad\.pth: expected tensors alone, got other objects"),
        (lambda path: torch.save([torch.zeros(1)], path), r"bad\.pth: expected a state dict, got list"),
        (lambda path: torch.save({"x": torch.zeros(1)}, path), r"state dict entry 'conv1.weight': expected shape"),
    ],
)
def test_a_local_file_of_something_else(write, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "bad.pth")
    with pytest.raises(UserError, match=rf"^network wrn16_2: .*{message}"):
        load_pretrained(SMALL, "bad.pth", tmp_path, ["a", "b", "c"])
    assert not Path("was_executed").exists(), "code in the file was executed"


def test_truncated_safetensors_are_damaged(tmp_path):
    save_file(
        {name: value.contiguous() for name, value in build(SMALL, 5, CPU).state_dict().items()}, tmp_path / "x.safetensors"
    )
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-10])
    with pytest.raises(UserError, match=r"x\.safetensors: damaged \(SafetensorError\); replace the file"):
        load_pretrained(SMALL, "x.safetensors", tmp_path, ["a", "b", "c"])


def test_names_of_classes_are_in_the_order_of_published_weights():
    """The order that `load_pretrained` relies on: torchvision's categories are those of the sorted WordNet ids."""
    assert sorted(WNIDS) == WNIDS and len(set(WNIDS)) == 1000
    theirs = models.get_model_weights("resnet18")["IMAGENET1K_V1"].meta["categories"]
    same = sum(a == b for a, b in zip(_names(WNIDS), theirs, strict=True))
    assert same > 980, "a few differ in spelling"
