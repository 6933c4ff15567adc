"""Networks of torchvision and timm: names known without importing either, shapes of outputs, mistakes."""

import pytest
import timm
import torch
import torchvision

from gvbsm.backbones.build import build
from gvbsm.config import networks as network_names
from gvbsm.config.shapes import NetworkShape
from gvbsm.errors import UserError
from gvbsm.store.files import load_tensors
from gvbsm.store.plans import STORE
from gvbsm.training import networks


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0", "shufflenet_v2_x0_5"])
def test_the_four_teachers_are_torchvisions_own(name):
    theirs = torchvision.models.get_model(name, num_classes=7)
    ours = build(f"torchvision:{name}", classes=7, image_size=224)
    ours.load_state_dict(theirs.state_dict())
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [
        ("timm:deit_tiny_patch16_224", 224, 3),
        ("timm:deit_tiny_patch16_224", 64, 3),
        ("timm:swin_tiny_patch4_window7_224", 224, 3),
        ("timm:resnet10t", 32, 1),
        ("torchvision:resnet18", 64, 3),
    ],
)
def test_shapes(name, size, channels):
    model = build(name, classes=5, image_size=size, channels=channels).eval()
    with torch.inference_mode():
        assert model(torch.rand(2, channels, size, size)).shape == (2, 5)


def test_options_reach_the_library():
    narrow = build("torchvision:mobilenet_v2", classes=5, image_size=32, width_mult=0.25)
    assert sum(p.numel() for p in narrow.parameters()) < 3e5
    no_drop = build("timm:deit_tiny_patch16_224", classes=5, image_size=32, depth=1)
    assert len(no_drop.blocks) == 1


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"name": "torchvision:resnet18", "channels": 1}, r"torchvision:resnet18: expected 3 channels, got 1"),
        ({"name": "torchvision:resnet18", "options": {"widht": 2}}, r"unexpected keyword argument 'widht'"),
        ({"name": "timm:resnet10t", "options": {"widht": 2}}, r"unexpected keyword argument 'widht'"),
        ({"name": "timm:resnet10x"}, r"timm has no model 'resnet10x'"),
    ],
)
def test_a_network_that_cannot_be_built_is_one_line(network, message):
    shape = {"classes": 5, "image_size": 32, "channels": 3, "options": {}} | network
    with pytest.raises(UserError, match=rf"network {network['name']} with options .*{message}.*; correct the row"):
        networks.build(NetworkShape(**shape), 0, torch.device("cpu"))


def test_names_found_in_the_libraries_text_are_those_they_list():
    listed = set(torchvision.models.list_models(module=torchvision.models))
    assert listed <= network_names._models_of("torchvision")
    assert set(timm.list_models()) == network_names._models_of("timm")


def test_a_tag_of_timms_pretrained_weights_may_stand_in_a_name():
    network_names.check("timm:deit_tiny_patch16_224.fb_in1k", {})
    with pytest.raises(ValueError, match="did you mean timm:deit_tiny_patch16_224"):
        network_names.check("timm:deit_tiny_patch16", {})


def test_labels_of_results():
    assert network_names.label("timm:swin_tiny_patch4_window7_224") == "swin_tiny_patch4_window7_224"
    assert network_names.label("resnet18") == "resnet18"


@pytest.mark.nightly("stages")
def test_a_network_of_timm_teaches(workspace, edit_row, make_up_to):
    """timm's norms and convolutions are subclasses of torch's, and are measured like them."""
    edit_row({"backbones": ["timm:resnet10t"]})
    planned = make_up_to("recover")
    statistics = next(artifact for artifact in planned if artifact.stage == "statistics")
    model = build("timm:resnet10t", classes=10, image_size=8, channels=1)
    convolutions = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Conv2d)]
    assert {name.rpartition("/")[0] for name in load_tensors(STORE / statistics.path)[0]} == set(convolutions)
