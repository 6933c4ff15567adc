"""State dicts have the published networks' order, so that released checkpoints load by order and shape.

Read in shaoshitong/G_VBSM_Dataset_Condensation (`networks.py`, `models/ShuffleNetv2.py`,
`models/mobilenetv2.py`) and HobbitLong/RepDistiller (`models/resnetv2.py`, `models/wrn.py`); 10 classes.
"""

import pytest
import torch

from gvbsm.backbones.build import build

Shapes = list[tuple[int, ...]]


def norm(channels: int) -> Shapes:
    """BatchNorm: weight, bias, running mean, running variance, batch counter."""
    return [(channels,)] * 4 + [()]


def conv(outside: int, inside: int, kernel: int) -> Shapes:
    return [(outside, inside, kernel, kernel), *norm(outside)]


def convnet_shapes() -> Shapes:
    blocks = [shape for inside in (3, 128, 128) for shape in [(128, inside, 3, 3), *[(128,)] * 3]]
    return [*blocks, (10, 2048), (10,)]


def resnet18_shapes() -> Shapes:
    shapes, inside = conv(64, 3, 3), 64
    for outside in (64, 128, 256, 512):
        shapes += conv(outside, inside, 3) + conv(outside, outside, 3)
        shapes += conv(outside, inside, 1) if inside != outside else []
        shapes += conv(outside, outside, 3) * 2
        inside = outside
    return [*shapes, (10, 512), (10,)]


def resnet50_shapes() -> Shapes:
    shapes, inside = conv(64, 3, 3), 64
    for planes, repeats in ((64, 3), (128, 4), (256, 6), (512, 3)):
        for index in range(repeats):
            shapes += conv(planes, inside, 1) + conv(planes, planes, 3) + conv(4 * planes, planes, 1)
            shapes += conv(4 * planes, inside, 1) if index == 0 else []
            inside = 4 * planes
    return [*shapes, (10, 2048), (10,)]


def mobilenet_v2_shapes() -> Shapes:
    shapes, inside = conv(16, 3, 3), 16
    for outside, repeats in ((8, 1), (12, 2), (16, 3), (32, 4), (48, 3), (80, 3), (160, 1)):
        for _ in range(repeats):
            hidden = inside if outside == 8 else 6 * inside
            shapes += conv(hidden, inside, 1) + conv(hidden, 1, 3) + conv(outside, hidden, 1)
            inside = outside
    return [*shapes, *conv(1280, 160, 1), (10, 1280), (10,)]


def wrn16_2_shapes() -> Shapes:
    shapes: Shapes = [(16, 3, 3, 3)]
    for inside, outside in ((16, 32), (32, 64), (64, 128)):
        shapes += [*norm(inside), (outside, inside, 3, 3), *norm(outside), (outside, outside, 3, 3)]
        shapes += [(outside, inside, 1, 1)]
        shapes += [*norm(outside), (outside, outside, 3, 3)] * 2
    return [*shapes, *norm(128), (10, 128), (10,)]


def shufflenet_v2_shapes() -> Shapes:
    shapes, inside = conv(24, 3, 1), 24
    for outside, repeats in ((48, 3), (96, 7), (192, 3)):
        half = outside // 2
        shapes += conv(inside, 1, 3) + conv(half, inside, 1)
        shapes += conv(half, inside, 1) + conv(half, 1, 3) + conv(half, half, 1)
        shapes += (conv(half, half, 1) + conv(half, 1, 3) + conv(half, half, 1)) * repeats
        inside = outside
    return [*shapes, *conv(1024, 192, 1), (10, 1024), (10,)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("convnet", convnet_shapes()),
        ("resnet18", resnet18_shapes()),
        ("resnet50", resnet50_shapes()),
        ("mobilenet_v2", mobilenet_v2_shapes()),
        ("wrn16_2", wrn16_2_shapes()),
        ("shufflenet_v2", shufflenet_v2_shapes()),
    ],
)
def test_the_state_dict_has_the_published_order(name: str, expected: Shapes) -> None:
    with torch.device("meta"):
        net = build(name, classes=10, image_size=32)
    assert [tuple(value.shape) for value in net.state_dict().values()] == expected
