"""ResNets (He et al., arXiv 1512.03385) with a stem for small images: 3x3, stride 1, no max-pool."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock, Bottleneck  # type: ignore[import-untyped]

Norm = Callable[[int], nn.Module]  # channels -> layer


class SmallResNet(nn.Module):
    """torchvision's ResNet with another stem, any stem width and any norm.

    Maps x (B, channels, H, W), float, to logits (B, classes); the total stride is 8. The stages have 1, 2, 4
    and 8 times `width` channels (Bottleneck: 4 times that). Parameters and buffers have torchvision's names.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        repeats: tuple[int, int, int, int],
        classes: int,
        channels: int,
        width: int = 64,
        norm: Norm = nn.BatchNorm2d,
    ) -> None:
        super().__init__()
        out = [width * 2**stage * block.expansion for stage in range(4)]
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.bn1 = norm(width)
        self.layer1 = _stage(block, repeats[0], width, out[0], stride=1, norm=norm)
        self.layer2 = _stage(block, repeats[1], out[0], out[1], stride=2, norm=norm)
        self.layer3 = _stage(block, repeats[2], out[1], out[2], stride=2, norm=norm)
        self.layer4 = _stage(block, repeats[3], out[2], out[3], stride=2, norm=norm)
        self.fc = nn.Linear(out[3], classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = F.relu(self.bn1(self.conv1(x_BCHW)), inplace=True)
        x_BCHW = self.layer4(self.layer3(self.layer2(self.layer1(x_BCHW))))
        return self.fc(x_BCHW.mean((2, 3)))


def resnet10(*, classes: int, image_size: int, channels: int = 3, width: int = 64) -> nn.Module:
    """One basic block a stage (ours: a cheap network). `width`: channels of the stem. Any image_size."""
    return SmallResNet(BasicBlock, (1, 1, 1, 1), classes, channels, width)


def resnet18(*, classes: int, image_size: int, channels: int = 3, width: int = 64) -> nn.Module:
    """ResNet18, teacher and student of the G-VBSM paper. `width`: channels of the stem. Any image_size."""
    return SmallResNet(BasicBlock, (2, 2, 2, 2), classes, channels, width)


def resnet18_in(*, classes: int, image_size: int, channels: int = 3) -> nn.Module:
    """ResNet18 with affine instance norm: what the published CIFAR-100 student "ResNet18" is (docs/deviations.md).

    Raises:
        ValueError: for an image_size below 9, whose last stage is one pixel: instance norm makes it constant.
    """
    if image_size < 9:
        raise ValueError(f"resnet18_in: expected image_size of at least 9, got {image_size}; use resnet18_gn")
    return SmallResNet(BasicBlock, (2, 2, 2, 2), classes, channels, norm=_instance_norm)


def resnet18_gn(*, classes: int, image_size: int, channels: int = 3, groups: int = 32) -> nn.Module:
    """ResNet18 with group norm (Wu & He, arXiv 1803.08494; 32 groups as there). Any image_size.

    Raises:
        ValueError: if the stem's 64 channels do not split into `groups`.
    """
    if groups < 1 or 64 % groups:
        raise ValueError(f"resnet18_gn: expected groups to divide 64, got {groups}; use 1, 2, 4, 8, 16, 32 or 64")
    return SmallResNet(BasicBlock, (2, 2, 2, 2), classes, channels, norm=partial(nn.GroupNorm, groups))


def resnet50(*, classes: int, image_size: int, channels: int = 3) -> nn.Module:
    """ResNet50, student of the G-VBSM paper; stride in the 3x3 convolution. Any image_size."""
    return SmallResNet(Bottleneck, (3, 4, 6, 3), classes, channels)


def resnet101(*, classes: int, image_size: int, channels: int = 3) -> nn.Module:
    """ResNet101, student of the G-VBSM paper; stride in the 3x3 convolution. Any image_size."""
    return SmallResNet(Bottleneck, (3, 4, 23, 3), classes, channels)


def _instance_norm(channels: int) -> nn.Module:
    return nn.GroupNorm(channels, channels)


def _stage(
    block: type[BasicBlock] | type[Bottleneck],
    repeats: int,
    inside: int,
    outside: int,
    *,
    stride: int,
    norm: Norm,
) -> nn.Sequential:
    """`repeats` blocks, `inside` to `outside` channels; the first has the stride and any projection."""
    projection: nn.Module | None = None
    if stride != 1 or inside != outside:
        projection = nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), norm(outside))
    planes = outside // block.expansion
    first = block(inside, planes, stride, projection, norm_layer=norm)
    return nn.Sequential(first, *(block(outside, planes, norm_layer=norm) for _ in range(1, repeats)))
