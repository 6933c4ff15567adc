"""ShuffleNetV2 for small images (Ma et al., arXiv 1807.11164, table 5): a 1x1 stem and no max-pool."""

import torch
from torch import Tensor, nn

# Width -> channels of the three stages and of the last 1x1 convolution.
_CHANNELS = {
    0.5: (48, 96, 192, 1024),
    1.0: (116, 232, 464, 1024),
    1.5: (176, 352, 704, 1024),
    2.0: (244, 488, 976, 2048),
}
_BASIC_UNITS = (3, 7, 3)  # after each stage's stride-2 unit


def channel_shuffle(x_BCHW: Tensor, groups: int) -> Tensor:
    """Channel c of group g moves to place c * groups + g; shape, dtype and channels_last format stay.

    Raises:
        RuntimeError: if the channels do not split into `groups`.
    """
    if x_BCHW.is_contiguous(memory_format=torch.channels_last):
        # On the NHWC view, the one copy that a shuffle needs comes out in the same memory format.
        x_BHWC = x_BCHW.permute(0, 2, 3, 1)
        return x_BHWC.unflatten(3, (groups, -1)).transpose(3, 4).flatten(3).permute(0, 3, 1, 2)
    return x_BCHW.unflatten(1, (groups, -1)).transpose(1, 2).flatten(1, 2)


class BasicUnit(nn.Module):
    """Half of the channels stays, half passes a branch; (B, C, H, W) to the same shape (figure 3c)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(*_pointwise(half, half), *_depthwise(half, 1), *_pointwise(half, half))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        stays_BCHW, moves_BCHW = x_BCHW.chunk(2, dim=1)
        return channel_shuffle(torch.cat([stays_BCHW, self.branch(moves_BCHW)], dim=1), 2)


class DownUnit(nn.Module):
    """Two branches on all channels; (B, inside, H, W) to (B, outside, ceil(H/2), ceil(W/2)) (figure 3d)."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        half = outside // 2
        self.left = nn.Sequential(*_depthwise(inside, 2), *_pointwise(inside, half))
        self.right = nn.Sequential(*_pointwise(inside, half), *_depthwise(half, 2), *_pointwise(half, half))

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return channel_shuffle(torch.cat([self.left(x_BCHW), self.right(x_BCHW)], dim=1), 2)


class ShuffleNetV2(nn.Module):
    """1x1 stem of 24, three stages, a last 1x1 convolution, average pool, linear head.

    Maps x (B, channels, H, W), float, to logits (B, classes); the total stride is 8.
    """

    def __init__(self, classes: int, channels: int, stage_channels: tuple[int, int, int], last: int) -> None:
        super().__init__()
        inside = 24
        self.stem = nn.Sequential(*_pointwise(channels, inside))
        units: list[nn.Module] = []
        for outside, repeats in zip(stage_channels, _BASIC_UNITS, strict=True):
            units += [DownUnit(inside, outside), *(BasicUnit(outside) for _ in range(repeats))]
            inside = outside
        self.units = nn.Sequential(*units)
        self.head = nn.Sequential(*_pointwise(inside, last))
        self.classifier = nn.Linear(last, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.classifier(self.head(self.units(self.stem(x_BCHW))).mean((2, 3)))


def shufflenet_v2(*, classes: int, image_size: int, channels: int = 3, width: float = 0.5) -> nn.Module:
    """ShuffleNetV2 x.5, teacher of the G-VBSM paper. `width`: 0.5, 1, 1.5 or 2. Any image_size.

    Raises:
        ValueError: for another width.
    """
    if width not in _CHANNELS:
        raise ValueError(f"shufflenet_v2: unknown width {width}; choose from {', '.join(map(str, _CHANNELS))}")
    *stages, last = _CHANNELS[width]
    return ShuffleNetV2(classes, channels, (stages[0], stages[1], stages[2]), last)


def _pointwise(inside: int, outside: int) -> list[nn.Module]:
    return [nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]


def _depthwise(channels: int, stride: int) -> list[nn.Module]:
    conv = nn.Conv2d(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
    return [conv, nn.BatchNorm2d(channels)]
