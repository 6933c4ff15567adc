"""ConvNet of the dataset-condensation literature (Gidaris & Komodakis, CVPR 2018; Zhao et al., ICLR 2021)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class HalfSize(nn.Module):
    """Means of 2x2 pixels: (B, C, H, W), float, to (B, C, H // 2, W // 2)."""

    def forward(self, x_BCHW: Tensor) -> Tensor:
        # On CUDA torch's pooling took 57 % of an iteration of recover (benchmarks/speed/gpu.md).
        return halved(x_BCHW) if x_BCHW.is_cuda else F.avg_pool2d(x_BCHW, 2)


def halved(x_BCHW: Tensor) -> Tensor:
    """`HalfSize` as one mean over two dimensions, in the layout of x."""
    height, width = x_BCHW.shape[2] // 2, x_BCHW.shape[3] // 2
    channels_last = x_BCHW.is_contiguous(memory_format=torch.channels_last)
    x, at = (x_BCHW.permute(0, 2, 3, 1), 1) if channels_last else (x_BCHW, 2)  # a mean is contiguous; `at`: the height's place
    for place, half in ((at, height), (at + 1, width)):
        if x.shape[place] % 2:  # only then: the gradient of a part is copied into zeros of the size of the whole
            x = x.narrow(place, 0, 2 * half)
    mean = x.unflatten(at + 1, (width, 2)).unflatten(at, (height, 2)).mean((at + 1, at + 3))
    return mean.permute(0, 3, 1, 2) if channels_last else mean


class ConvNet(nn.Module):
    """`depth` blocks of 3x3 convolution (with bias), norm, ReLU, 2x2 average pool; a linear head on all pixels.

    Maps x (B, channels, image_size, image_size), float, to logits (B, classes). The head flattens its
    (width, image_size // 2^depth, image_size // 2^depth) input, so it fits one image size only.
    """

    def __init__(self, classes: int, image_size: int, channels: int, width: int, norm: str, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for block in range(depth):
            layers += [
                nn.Conv2d(channels if block == 0 else width, width, 3, padding=1),
                _norm(norm, width),
                nn.ReLU(inplace=True),
                HalfSize(),
            ]
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(width * (image_size // 2**depth) ** 2, classes)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.classifier(self.features(x_BCHW).flatten(1))


def convnet(
    *, classes: int, image_size: int, channels: int = 3, width: int = 128, depth: int = 3, norm: str = "instance"
) -> nn.Module:
    """ConvNetW128, the G-VBSM paper's (arXiv 2311.17950) ConvNet teacher and student.

    Args:
        width: channels of every convolution.
        depth: blocks; three at 64 px too, as published.
        norm: "instance" (affine, no running statistics) or "batch".

    Raises:
        ValueError: for another norm, no block, or an image_size which the blocks' 2x2 pools would reduce to nothing.
    """
    if depth < 1:
        raise ValueError(f"convnet: expected depth of at least 1, got {depth}; give it a block")
    if image_size < 2**depth:
        raise ValueError(f"convnet: expected image_size of at least {2**depth}, got {image_size}; enlarge them or lower depth")
    return ConvNet(classes, image_size, channels, width, norm, depth)


def convnet_bn(*, classes: int, image_size: int, channels: int = 3, width: int = 128, depth: int = 3) -> nn.Module:
    """`convnet` with BatchNorm, whose statistics can be matched too (ours). Arguments and errors as there."""
    return convnet(classes=classes, image_size=image_size, channels=channels, width=width, depth=depth, norm="batch")


def _norm(name: str, width: int) -> nn.Module:
    if name == "instance":
        return nn.GroupNorm(width, width)  # one channel a group: affine instance norm
    if name == "batch":
        return nn.BatchNorm2d(width)
    raise ValueError(f"convnet: unknown norm {name!r}; choose from batch, instance")
