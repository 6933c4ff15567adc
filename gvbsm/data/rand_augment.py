"""RandAugment (Cubuk et al., CVPR workshops 2020) of views: torchvision's operations, in the order that the views hold.

At one magnitude an operation is a table: of the pixel that comes to each place, or of the level that each level becomes. The
tables are computed once, on the CPU, by torchvision or by its arithmetic. So all views of a kind take a few calls, without
waiting for the device, and the result is the same everywhere.

Shapes: V views, C channels, P pixels, L = 256 levels.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor
from torch.nn import functional as F

from gvbsm.config.labels import ViewsOfImages
from gvbsm.method.transfer import send
from gvbsm.method.views import OPERATIONS

_MOST = 30  # magnitude
_L = 256
# The kinds of operations, and the kind of each operation in the order of their numbers in `Views`. An operation from _FIXED on
# changes each level of a channel for itself.
_SAME, _MOVE, _SATURATION, _SHARPNESS, _FIXED, _CONTRAST, _AUTOCONTRAST, _EQUALIZE = range(8)
_KINDS = [_SAME, *5 * [_MOVE], _FIXED, _SATURATION, _CONTRAST, _SHARPNESS, _FIXED, _FIXED, _AUTOCONTRAST, _EQUALIZE]
assert len(_KINDS) == OPERATIONS


class RandAugment:
    """Operations of one magnitude (0 to 30) on levels 0..255; an operation with a direction has either sign equally often.

    Strengths are torchvision's: at 30 a shear of .3, a translation of 150/331 of the side, 30 degrees, a colour factor of 1 +-
    .9, 4 bits, a threshold of 0. Shears are about the centre; torchvision's are about a corner. The result of a view does not
    depend on the other views of the call.
    """

    def __init__(self, magnitude: int) -> None:
        self._strength = magnitude / _MOST
        self._factors = [1 + sign * 0.9 * self._strength for sign in (1, -1)]  # of colours, by `operation % 2`
        self._kind = torch.tensor(_KINDS).repeat_interleave(2)
        self._tables: dict[tuple[torch.device, int], _Tables] = {}

    @staticmethod
    def of(views: ViewsOfImages) -> RandAugment | None:
        """RandAugment with the magnitude in the settings of views; None if they have none."""
        return _of_magnitude(views.rand_augment.magnitude) if views.rand_augment else None

    def __call__(self, levels_VCHW: Tensor, operation_VR: Tensor) -> Tensor:
        """Apply each view's R operations (`operation_VR` of `Views`, on the CPU) to float levels, which are rounded first."""
        bytes_VCHW = levels_VCHW.round().to(torch.uint8).contiguous()
        device, size = bytes_VCHW.device, bytes_VCHW.shape[-1]
        if (device, size) not in self._tables:
            self._tables[device, size] = _Tables(self._strength, self._factors, size, device)
        tables = self._tables[device, size]
        for operation_V in operation_VR.long().unbind(1):
            kind_V = self._kind[operation_V]
            order_V = kind_V.argsort(stable=True)
            counts = kind_V.bincount(minlength=_EQUALIZE + 1).tolist()
            order_V, operation_V = send(torch.stack([order_V, operation_V[order_V]]), device).unbind(0)
            operated = tables.operate(bytes_VCHW[order_V], operation_V, counts)
            bytes_VCHW[order_V] = operated
        return bytes_VCHW.float()


@functools.cache
def _of_magnitude(magnitude: int) -> RandAugment:
    """Made once: epochs share the tables."""
    return RandAugment(magnitude)


class _Tables:
    """The operations on images of one size on one device."""

    def __init__(self, strength: float, factors: list[float], size: int, device: torch.device) -> None:
        self._factors = factors
        self._origin_OP = _origins(strength, size).to(device)
        self._fixed_OL = _fixed(strength, factors).to(device)
        self._towards_grey, self._towards_blur = (table.to(device) for table in _blends(factors))
        self._all_L = _all_levels().to(device)
        self._kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]]).to(device)

    def operate(self, x_VCHW: Tensor, operation_V: Tensor, counts: list[int]) -> Tensor:
        """uint8 views after an operation each; `counts` are the numbers of views of each kind, in the order of the views."""
        parts, operations = x_VCHW.split(counts), operation_V.split(counts)
        done = [parts[_SAME]]
        for kind, change in ((_MOVE, self._move), (_SATURATION, self._saturate), (_SHARPNESS, self._sharpen)):
            done.append(change(parts[kind], operations[kind]) if counts[kind] else parts[kind])
        by_level = sum(counts[_FIXED:])
        if by_level:
            done.append(self._change_levels(x_VCHW[-by_level:], operations, parts, counts))
        return torch.cat(done)

    def _move(self, x_VCHW: Tensor, operation_V: Tensor) -> Tensor:
        """Shear, translate or rotate; nearest pixels, black outside."""
        origin_V1P = self._origin_OP[operation_V].unsqueeze(1)
        index_VCP = origin_V1P.clamp(min=0).expand(-1, x_VCHW.shape[1], -1)
        return x_VCHW.flatten(2).gather(2, index_VCP).masked_fill_(origin_V1P < 0, 0).view_as(x_VCHW)

    def _saturate(self, x_VCHW: Tensor, operation_V: Tensor) -> Tensor:
        if x_VCHW.shape[1] == 1:
            return x_VCHW
        return _blended(self._towards_grey, x_VCHW, _grey(x_VCHW), operation_V)

    def _sharpen(self, x_VCHW: Tensor, operation_V: Tensor) -> Tensor:
        """All pixels but those at the border."""
        channels, height, width = x_VCHW.shape[1:]
        if height <= 2 or width <= 2:
            return x_VCHW
        summed = F.conv2d(x_VCHW.float(), self._kernel.expand(channels, 1, 3, 3), groups=channels)  # exact: integers
        x_VCHW = x_VCHW.clone()
        inner = x_VCHW[..., 1:-1, 1:-1]
        inner.copy_(_blended(self._towards_blur, inner, (summed / 13).round_(), operation_V))
        return x_VCHW

    def _change_levels(
        self, x_VCHW: Tensor, operations: tuple[Tensor, ...], parts: tuple[Tensor, ...], counts: list[int]
    ) -> Tensor:
        """The operations that change each level of a channel for itself."""
        level_VCP = x_VCHW.flatten(2).long()
        channels = x_VCHW.shape[1]
        tables = [self._fixed_OL[operations[_FIXED]].unsqueeze(1).expand(-1, channels, -1)]
        if counts[_CONTRAST]:
            contrast_V1L = self._contrast(parts[_CONTRAST], operations[_CONTRAST])
            tables.append(contrast_V1L.expand(-1, channels, -1))
        if counts[_AUTOCONTRAST]:
            tables.append(self._autocontrast(parts[_AUTOCONTRAST]))
        if counts[_EQUALIZE]:
            tables.append(_equalized(level_VCP[-counts[_EQUALIZE] :]))
        return torch.cat(tables).gather(2, level_VCP).view_as(x_VCHW)

    def _contrast(self, x_VCHW: Tensor, operation_V: Tensor) -> Tensor:
        """Levels (V,1,L) blended with the mean of the grey image."""
        # Exact on every device: sums of whole numbers, of rows at first, which float32 holds, and a division by a tensor. By a
        # number, or in a mean, CUDA multiplies by its rounded inverse, which can move a level by one. Up to 256 px the float32
        # sum of torchvision's mean is exact as well; beyond, its mean can be another one in the last bit.
        total_V11 = _grey(x_VCHW).sum(3).sum((1, 2), dtype=torch.int64).float().view(-1, 1, 1)
        mean_V11 = total_V11 / torch.full_like(total_V11, x_VCHW.shape[2] * x_VCHW.shape[3])
        more_V1L, less_V1L = (_blend(self._all_L, mean_V11, factor) for factor in self._factors)
        return torch.where((operation_V % 2 == 0).view(-1, 1, 1), more_V1L, less_V1L)

    def _autocontrast(self, x_VCHW: Tensor) -> Tensor:
        """Levels (V,C,L) stretched so that each channel's least is 0 and its largest 255."""
        low_VC1, high_VC1 = (end.float().unsqueeze(2) for end in (x_VCHW.amin((2, 3)), x_VCHW.amax((2, 3))))
        is_flat = low_VC1 == high_VC1
        scale_VC1 = ((high_VC1 - low_VC1) * (1.0 / (_L - 1))).masked_fill_(is_flat, 1)
        return ((self._all_L - low_VC1.masked_fill_(is_flat, 0)) / scale_VC1).clamp_(0, _L - 1).to(torch.uint8)


def _equalized(level_VCP: Tensor) -> Tensor:
    """Levels (V,C,L) after PIL's equalisation of each channel's histogram."""
    channels, pixels = level_VCP.shape[:2], level_VCP.shape[2]
    histogram_VCL = torch.zeros(*channels, _L, dtype=torch.int64, device=level_VCP.device)
    histogram_VCL.scatter_add_(2, level_VCP, torch.ones_like(level_VCP[:1, :1, :1]).expand_as(level_VCP))
    up_to_VCL = histogram_VCL.cumsum(2)
    of_largest_VC1 = histogram_VCL.gather(2, up_to_VCL.argmax(2, keepdim=True))
    step_VC1 = (pixels - of_largest_VC1) // (_L - 1)
    below_VCL = up_to_VCL - histogram_VCL
    table_VCL = ((below_VCL + step_VC1 // 2) // step_VC1.clamp(min=1)).clamp_(0, _L - 1)
    table_VCL[..., 0] = 0
    same_L = torch.arange(_L, device=level_VCP.device)
    return torch.where(step_VC1 == 0, same_L, table_VCL).to(torch.uint8)


def _grey(x_VCHW: Tensor) -> Tensor:
    """The grey levels (V,1,H,W), float32 of whole numbers, of uint8 images."""
    if x_VCHW.shape[1] == 1:
        return x_VCHW.float()
    red, green, blue = x_VCHW.unbind(1)
    return red.mul(0.2989).add_(green, alpha=0.587).add_(blue, alpha=0.114).floor_().unsqueeze(1)


def _blended(table_2LL: Tensor, x_VCHW: Tensor, other_VCHW: Tensor, operation_V: Tensor) -> Tensor:
    """uint8 images blended with others, of whole float levels, by a table of `_blends`."""
    index = (operation_V % 2 * _L).view(-1, 1, 1, 1) + other_VCHW.long()
    return table_2LL.take(index * _L + x_VCHW)


def _all_levels() -> Tensor:
    return torch.arange(_L, dtype=torch.float32)


def _blend(level: Tensor, other: Tensor, factor: float) -> Tensor:
    """torchvision's `factor * level + (1 - factor) * other`, uint8."""
    return level.mul(factor).add(other, alpha=1.0 - factor).clamp_(0, _L - 1).to(torch.uint8)


def _blends(factors: list[float]) -> tuple[Tensor, Tensor]:
    """Two tables (2,L,L) of the level that a level (last) and another one become, for each factor: as torchvision blends an
    image with a grey one, and as it blends one with a blurred one."""
    level, other = _all_levels(), _all_levels().unsqueeze(1)
    towards_blur = [level.add(other - level, alpha=1.0 - factor).clamp_(0, _L - 1).to(torch.uint8) for factor in factors]
    return torch.stack([_blend(level, other, factor) for factor in factors]), torch.stack(towards_blur)


def _fixed(strength: float, factors: list[float]) -> Tensor:
    """The level (O,L) that each level becomes by brightness, posterise and solarise; other operations leave it."""
    from torchvision.transforms.v2 import functional as T  # here, because the import takes seconds

    levels_1HW = torch.arange(_L, dtype=torch.uint8).view(1, 1, _L)
    table_OL = levels_1HW.flatten().repeat(2 * OPERATIONS, 1)
    for sign, factor in enumerate(factors):
        table_OL[12 + sign] = T.adjust_brightness(levels_1HW, factor).flatten()
        table_OL[20 + sign] = T.posterize(levels_1HW, 8 - round(4 * strength)).flatten()
        table_OL[22 + sign] = T.solarize(levels_1HW, 255 * (1 - strength)).flatten()
    return table_OL


def _origins(strength: float, size: int) -> Tensor:
    """The number (O,P) of the pixel that the operations which move pixels bring to each place; -1 if it is outside."""
    from torchvision.transforms import InterpolationMode
    from torchvision.transforms.v2 import functional as T

    numbers_1HW = torch.arange(1, size**2 + 1, dtype=torch.float32).view(1, size, size)  # exact up to 4096 px
    degrees = float(torch.rad2deg(torch.tensor(0.3 * strength).atan()))
    shift = round(150 / 331 * strength * size)
    origin_OP = torch.arange(size**2).repeat(2 * OPERATIONS, 1)
    for sign in (1, -1):
        moves = [  # angle, translation, shear
            (0, (0, 0), (sign * degrees, 0)),
            (0, (0, 0), (0, sign * degrees)),
            (0, (sign * shift, 0), (0, 0)),
            (0, (0, sign * shift), (0, 0)),
            (sign * 30 * strength, (0, 0), (0, 0)),
        ]
        for number, (angle, by, shear) in enumerate(moves, 1):
            moved = T.affine(numbers_1HW, angle, list(by), 1.0, list(shear), interpolation=InterpolationMode.NEAREST)
            origin_OP[2 * number + (sign < 0)] = moved.flatten().long() - 1
    return origin_OP
