"""Wide ResNet (Zagoruyko & Komodakis, arXiv 1605.07146, table 1) without dropout."""

from torch import Tensor, nn
from torch.nn import functional as F


class PreActBlock(nn.Module):
    """Norm, ReLU, 3x3 convolution, twice, plus a shortcut.

    Maps (B, inside, H, W) to (B, outside, ceil(H / stride), ceil(W / stride)).
    """

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, outside, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outside)
        self.conv2 = nn.Conv2d(outside, outside, 3, padding=1, bias=False)
        self.projection = nn.Conv2d(inside, outside, 1, stride, bias=False) if inside != outside else None

    def forward(self, x_BCHW: Tensor) -> Tensor:
        a_BCHW = F.relu(self.bn1(x_BCHW), inplace=True)
        y_BCHW = self.conv2(F.relu(self.bn2(self.conv1(a_BCHW)), inplace=True))
        # The input of a projection is activated, that of an identity shortcut is not.
        return y_BCHW + (x_BCHW if self.projection is None else self.projection(a_BCHW))


class WideResNet(nn.Module):
    """3x3 stem of 16, stages of 16, 32, 64 times `widen` channels, BatchNorm-ReLU, average pool, linear head.

    Maps x (B, channels, H, W), float, to logits (B, classes); the total stride is 4.
    """

    def __init__(self, classes: int, channels: int, repeats: int, widen: int) -> None:
        super().__init__()
        inside = 16
        self.conv1 = nn.Conv2d(channels, inside, 3, padding=1, bias=False)
        blocks: list[nn.Module] = []
        for outside, stride in ((16 * widen, 1), (32 * widen, 2), (64 * widen, 2)):
            for index in range(repeats):
                blocks.append(PreActBlock(inside, outside, stride if index == 0 else 1))
                inside = outside
        self.blocks = nn.Sequential(*blocks)
        self.bn1 = nn.BatchNorm2d(inside)
        self.fc = nn.Linear(inside, classes)
        self._initialise()

    def forward(self, x_BCHW: Tensor) -> Tensor:
        x_BCHW = self.blocks(self.conv1(x_BCHW))
        return self.fc(F.relu(self.bn1(x_BCHW), inplace=True).mean((2, 3)))

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.fc.bias)


def wrn16_2(*, classes: int, image_size: int, channels: int = 3, depth: int = 16, widen: int = 2) -> nn.Module:
    """WRN-16-2, teacher of the G-VBSM paper. Any image_size.

    Args:
        depth: number of convolutions in the paper's count, 6n + 4 for n blocks a stage.
        widen: factor on the channels of the stages.

    Raises:
        ValueError: for a depth that is not 6n + 4 with n at least 1.
    """
    repeats, rest = divmod(depth - 4, 6)
    if rest or repeats < 1:
        raise ValueError(f"wrn16_2: expected depth 6n + 4 (10, 16, 22, 28, ...), got {depth}; use the nearest of these")
    return WideResNet(classes, channels, repeats, widen)
