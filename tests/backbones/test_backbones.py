"""The networks are the published ones: parameter counts, hooked layers, strides; and their registry.

Facts about the published networks were read in shaoshitong/G_VBSM_Dataset_Condensation (`networks.py`,
`models/ShuffleNetv2.py`, `models/mobilenetv2.py`, names of the stored statistics) and HobbitLong/RepDistiller
(`models/resnetv2.py`, `models/wrn.py`). Shapes are computed on the meta device, without data.
"""

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gvbsm import backbones
from gvbsm.backbones.build import build
from gvbsm.backbones.convnet import HalfSize, halved

PACKAGE = Path(backbones.__file__).parent
NAMES = tuple(backbones.BACKBONES)


def on_meta(name: str, classes: int = 10, image_size: int = 32, channels: int = 3, **options: Any) -> nn.Module:
    with torch.device("meta"):
        return build(name, classes=classes, image_size=image_size, channels=channels, **options)


def parameters(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


# Registry


def test_the_registry_is_a_literal_and_every_builder_has_the_common_keyword_only_parameters() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    own, libraries = [ast.literal_eval(node.value) for node in tree.body if isinstance(node, ast.Assign)]
    assert (own, libraries) == (backbones.BACKBONES, backbones.LIBRARIES)
    for builder in backbones.BACKBONES.values():
        module, _, function = builder.partition(":")
        body = ast.parse((PACKAGE / f"{module.rpartition('.')[2]}.py").read_text()).body
        (node,) = [x for x in body if isinstance(x, ast.FunctionDef) and x.name == function]
        assert not node.args.args
        assert node.args.kwarg is None
        assert [x.arg for x in node.args.kwonlyargs][:3] == ["classes", "image_size", "channels"]
        assert all(default is not None for default in node.args.kw_defaults[2:])


def test_importing_the_registry_does_not_import_torch() -> None:
    code = "import sys, gvbsm.backbones; sys.exit('torch' in sys.modules or 'torchvision' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parents[1], check=True)


def test_an_unknown_name_is_named_with_the_choices() -> None:
    with pytest.raises(ValueError, match=r"^unknown network 'resent18'; choose from convnet, .*wrn16_2$"):
        build("resent18", classes=10, image_size=32)


@pytest.mark.parametrize(
    ("name", "image_size", "options", "message"),
    [
        ("convnet", 4, {}, r"convnet: expected image_size of at least 8, got 4"),
        ("convnet", 32, {"depth": 6}, r"convnet: expected image_size of at least 64, got 32"),
        ("convnet", 32, {"depth": 0}, r"convnet: expected depth of at least 1, got 0"),
        ("convnet", 32, {"norm": "layer"}, r"convnet: unknown norm 'layer'; choose from batch, instance"),
        ("resnet18_in", 8, {}, r"resnet18_in: expected image_size of at least 9, got 8"),
        ("resnet18_gn", 32, {"groups": 3}, r"resnet18_gn: expected groups to divide 64, got 3"),
        ("mobilenet_v2", 32, {"width": 0.05}, r"mobilenet_v2: expected width of at least 0.0625, got 0.05"),
        ("wrn16_2", 32, {"depth": 18}, r"wrn16_2: expected depth 6n \+ 4 .*, got 18"),
        ("wrn16_2", 32, {"depth": 4}, r"wrn16_2: expected depth 6n \+ 4 .*, got 4"),
        (
            "shufflenet_v2",
            32,
            {"width": 0.7},
            r"shufflenet_v2: unknown width 0.7; choose from 0.5, 1.0, 1.5, 2.0",
        ),
    ],
)
def test_bad_options_get_one_line(name: str, image_size: int, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        on_meta(name, image_size=image_size, **options)
    assert "\n" not in str(caught.value)


# Shapes and sizes


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("image_size", "channels", "classes"),
    [(16, 1, 10), *(pytest.param(*other, marks=pytest.mark.nightly("stages")) for other in ((32, 3, 100), (64, 3, 200)))],
)
def test_logits_have_the_asked_shape(name: str, image_size: int, channels: int, classes: int) -> None:
    net = on_meta(name, classes, image_size, channels)
    x_BCHW = torch.empty(2, channels, image_size, image_size, device="meta")
    assert net(x_BCHW).shape == (2, classes)


@pytest.mark.parametrize(
    ("name", "classes", "options", "count"),
    [
        # kuangliu/pytorch-cifar's ResNets on CIFAR-10. Also torchvision's 11,689,512, 25,557,032, 44,549,160
        # with the stem's 9,408 -> 1,728 and the head's 1000 -> 10 classes.
        ("resnet18", 10, {}, 11_173_962),
        ("resnet50", 10, {}, 23_520_842),
        ("resnet101", 10, {}, 42_512_970),
        ("resnet18_in", 10, {}, 11_173_962),  # instance and group norm have BatchNorm's parameters
        ("resnet18_gn", 10, {}, 11_173_962),
        # By hand: stem 29w; a stage from i to o channels 9io + 9oo + 4o, if i < o also io + 2o.
        ("resnet10", 10, {}, 4_903_242),
        ("resnet10", 10, {"width": 16}, 308_826),
        # RepDistiller's wrn_16_2, mobile_half and ShuffleV2 with 100 classes.
        ("wrn16_2", 100, {}, 703_284),
        ("mobilenet_v2", 100, {}, 812_836),
        ("shufflenet_v2", 100, {"width": 1.0}, 1_355_528),
        # torchvision's 1,366,792, 3,503,624, 7,393,996 with the stem's 648 -> 72, the head's 1000 -> 100.
        ("shufflenet_v2", 100, {}, 443_716),
        ("shufflenet_v2", 100, {"width": 1.5}, 2_580_548),
        ("shufflenet_v2", 100, {"width": 2.0}, 5_549_320),
        # The dataset-condensation papers' ConvNet on CIFAR-10; at 64 px its head has 8192 inputs, not 2048.
        ("convnet", 10, {}, 320_010),
        ("convnet_bn", 10, {}, 320_010),
        ("convnet", 10, {"image_size": 64}, 320_010 + 10 * (8192 - 2048)),
        # Without its last block or two, the head sees more pixels.
        ("convnet", 10, {"depth": 2}, 320_010 - (9 * 128 * 128 + 3 * 128) + 10 * 128 * (16**2 // 4 - 4**2)),
        ("convnet_bn", 10, {"depth": 1}, 320_010 - 2 * (9 * 128 * 128 + 3 * 128) + 10 * 128 * (16**2 - 4**2)),
    ],
)
def test_parameter_counts(name: str, classes: int, options: dict[str, Any], count: int) -> None:
    assert parameters(on_meta(name, classes, **options)) == count


@pytest.mark.parametrize(
    ("name", "convolutions", "batch_norms"),
    [
        ("convnet", 3, 0),
        ("convnet_bn", 3, 3),
        ("resnet10", 12, 12),
        ("resnet18", 20, 20),
        ("resnet18_in", 20, 0),
        ("resnet18_gn", 20, 0),
        ("resnet50", 53, 53),
        ("resnet101", 104, 104),
        ("mobilenet_v2", 53, 53),
        ("wrn16_2", 16, 13),
        ("shufflenet_v2", 56, 56),
    ],
)
def test_hooked_layers(name: str, convolutions: int, batch_norms: int) -> None:
    """The five teachers have as many convolutions as the published statistics have folders."""
    modules = list(on_meta(name).modules())
    assert sum(isinstance(module, nn.Conv2d) for module in modules) == convolutions
    assert sum(isinstance(module, nn.BatchNorm2d) for module in modules) == batch_norms


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("convnet", {32, 16, 8}),
        ("resnet18", {32, 16, 8, 4}),
        ("mobilenet_v2", {32, 16, 8, 4, 2}),  # the stem has stride 2 at 32 px already, and at 64 px
        ("wrn16_2", {32, 16, 8}),
        ("shufflenet_v2", {32, 16, 8, 4}),
    ],
)
def test_convolutions_see_these_sizes(name: str, sides: set[int]) -> None:
    for factor in (1, 2):
        net = on_meta(name, image_size=32 * factor)
        seen: set[int] = set()
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.register_forward_pre_hook(lambda _, args, seen=seen: seen.add(args[0].shape[-1]))
        net(torch.empty(2, 3, 32 * factor, 32 * factor, device="meta"))
        assert seen == {side * factor for side in sides}


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (2, 3)])
def test_the_mean_that_convnets_pool_by_on_cuda_is_the_pool(size: tuple[int, int]) -> None:
    x_BCHW = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    pooled, mean = torch.nn.functional.avg_pool2d(x_BCHW, 2), halved(x_BCHW)
    torch.testing.assert_close(mean, pooled)
    weights = torch.randn_like(pooled)
    gradients = [torch.autograd.grad(y, x_BCHW, weights)[0] for y in (mean, pooled)]
    torch.testing.assert_close(*gradients)
    if torch.cuda.is_available():
        torch.testing.assert_close(HalfSize()(x_BCHW.detach().cuda()).cpu(), pooled.detach())
    last = x_BCHW.detach().contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(halved(last), pooled.detach())
    assert halved(last).is_contiguous(memory_format=torch.channels_last) and mean.is_contiguous()


@pytest.mark.parametrize(("size", "cuts"), [((8, 8), 0), ((7, 8), 1), ((7, 9), 2)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_mean_cuts_odd_sides_alone(size: tuple[int, int], cuts: int, layout: torch.memory_format) -> None:
    """The gradient of a cut is a map of zeros and a copy."""
    x_BCHW = torch.randn(2, 3, *size).contiguous(memory_format=layout).requires_grad_()
    nodes, names = [halved(x_BCHW).grad_fn], []
    while nodes:
        if node := nodes.pop():
            names.append(node.name())
            nodes += [following for following, _ in node.next_functions]
    assert sum(name.startswith("SliceBackward") for name in names) == cuts, names
