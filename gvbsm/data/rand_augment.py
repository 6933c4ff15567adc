"""RandAugment (Cubuk et al., CVPR workshops 2020) of views: torchvision's operations, in the order that the views hold."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from gvbsm.config.stages import ViewsOfImages
from gvbsm.method.transfer import send
from gvbsm.method.views import OPERATIONS

_MOST = 30  # magnitude


class RandAugment:
    """Operations of one magnitude (0 to 30) on levels 0..255; an operation with a direction has either sign equally often.

    Strengths are torchvision's: at 30 a shear of .3, a translation of 150/331 of the side, 30 degrees, a colour factor of 1 +-
    .9, 4 bits, a threshold of 0. Shears are about the centre; torchvision's are about a corner. The result of a view does not
    depend on the other views of the call.
    """

    def __init__(self, magnitude: int) -> None:
        self._operations = _operations(magnitude / _MOST)

    @staticmethod
    def of(views: ViewsOfImages) -> RandAugment | None:
        """RandAugment with the magnitude in the settings of views; None if they have none."""
        return RandAugment(views.rand_augment.magnitude) if views.rand_augment else None

    def __call__(self, levels_VCHW: Tensor, operation_VR: Tensor) -> Tensor:
        """Apply each view's R operations (`operation_VR` of `Views`) to float levels, which are rounded first."""
        bytes_VCHW = levels_VCHW.round().to(torch.uint8)
        for operation_V in operation_VR.unbind(1):
            for number in operation_V.unique().tolist():
                index = send((operation_V == number).nonzero().squeeze(1), bytes_VCHW.device)
                operate = self._operations[number // 2]
                bytes_VCHW[index] = operate(bytes_VCHW[index].contiguous(), -1 if number % 2 else 1)
        return bytes_VCHW.float()


def _operations(strength: float) -> list[Callable[[Tensor, int], Tensor]]:
    """The operations with a strength of 0 to 1, in the order of their numbers in `Views`."""
    from torchvision.transforms import InterpolationMode  # here, because the import takes seconds
    from torchvision.transforms.v2 import functional as T

    nearest = InterpolationMode.NEAREST

    def moved(x: Tensor, angle: float = 0, right: float = 0, down: float = 0, shear: tuple[float, float] = (0, 0)) -> Tensor:
        by = [round(right * x.shape[-1]), round(down * x.shape[-2])]
        return T.affine(x, angle, by, 1.0, list(shear), interpolation=nearest)

    degrees = float(torch.rad2deg(torch.tensor(0.3 * strength).atan()))
    shift, factor = 150 / 331 * strength, 0.9 * strength
    operations: list[Callable[[Tensor, int], Tensor]] = [
        lambda x, sign: x,
        lambda x, sign: moved(x, shear=(sign * degrees, 0)),
        lambda x, sign: moved(x, shear=(0, sign * degrees)),
        lambda x, sign: moved(x, right=sign * shift),
        lambda x, sign: moved(x, down=sign * shift),
        lambda x, sign: moved(x, angle=sign * 30 * strength),
        lambda x, sign: T.adjust_brightness(x, 1 + sign * factor),
        lambda x, sign: T.adjust_saturation(x, 1 + sign * factor),
        lambda x, sign: T.adjust_contrast(x, 1 + sign * factor),
        lambda x, sign: T.adjust_sharpness(x, 1 + sign * factor),
        lambda x, sign: T.posterize(x, 8 - round(4 * strength)),
        lambda x, sign: T.solarize(x, 255 * (1 - strength)),
        lambda x, sign: T.autocontrast(x),
        lambda x, sign: T.equalize(x),
    ]
    assert len(operations) == OPERATIONS
    return operations
