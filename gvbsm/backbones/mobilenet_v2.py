"""MobileNetV2 for small images: plain ReLU, and strides unlike the ImageNet network's.

Paper: Sandler et al., arXiv 1801.04381, table 2. The small-image strides are those of the distillation
literature (Tian et al., arXiv 1910.10699, appendix), which G-VBSM takes over for 32 and 64 px alike.
"""

from torch import Tensor, nn

# Expansion, channels at width 1, repeats, stride of the first block.
_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class InvertedResidual(nn.Module):
    """1x1 expansion (even of factor 1), 3x3 depthwise, linear 1x1; added to the input where shapes agree.

    Maps (B, inside, H, W) to (B, outside, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, inside: int, outside: int, expansion: int, stride: int) -> None:
        super().__init__()
        hidden = inside * expansion
        self.branch = nn.Sequential(
            *_conv_bn_relu(inside, hidden, 1),
            *_conv_bn_relu(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, outside, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        self.residual = stride == 1 and inside == outside

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.branch(x_BCHW)
        return x_BCHW + y_BCHW if self.residual else y_BCHW


class MobileNetV2(nn.Module):
    """Stride-2 3x3 stem, inverted residuals, 1x1 to at least 1280 channels, average pool, linear head.

    Maps x (B, channels, H, W), float, to logits (B, classes); the total stride is 16.
    """

    def __init__(self, classes: int, channels: int, width: float) -> None:
        super().__init__()
        inside = int(32 * width)
        last = int(1280 * max(width, 1.0))
        self.stem = nn.Sequential(*_conv_bn_relu(channels, inside, 3, 2))
        blocks: list[nn.Module] = []
        for expansion, full, repeats, stride in _STAGES:
            for index in range(repeats):
                blocks.append(InvertedResidual(inside, int(full * width), expansion, stride if index == 0 else 1))
                inside = int(full * width)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(*_conv_bn_relu(inside, last, 1))
        self.classifier = nn.Linear(last, classes)
        self._initialise()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        return self.classifier(self.head(self.blocks(self.stem(x_BCHW))).mean((2, 3)))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.classifier.weight, std=0.01)
        nn.init.zeros_(self.classifier.bias)


def mobilenet_v2(*, classes: int, image_size: int, channels: int = 3, width: float = 0.5) -> nn.Module:
    """MobileNetV2 x.5, teacher and student of the G-VBSM paper. Any image_size.

    Args:
        width: factor on all channels except the last 1280, which grow with it but do not shrink.

    Raises:
        ValueError: for a width below 1/16, which leaves a stage without channels.
    """
    if width < 1 / 16:
        raise ValueError(f"mobilenet_v2: expected width of at least 0.0625, got {width}; the published value is 0.5")
    return MobileNetV2(classes, channels, width)


def _conv_bn_relu(inside: int, outside: int, kernel: int, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inside, outside, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outside), nn.ReLU(inplace=True)]
