"""The augmentation of recover: one crop, flip and roll for all images of a batch.

It is linear and separable: each row of a view is sampled at one position between two rows of the image, each column likewise.
So the positions of all iterations are drawn at once, and a view is two small matrix products, on any device.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gvbsm.method.crops import RATIO, draw_crops, sampled_at
from gvbsm.method.draws import derive, uniform, up_to

_CROP, _TOP, _LEFT, _FLIP, _DOWN, _RIGHT = range(6)  # the purposes of random numbers; each has its own key


def least_shares(first: float, last: float, count: int) -> Tensor:
    """The least share of the area that the crop of each iteration t = 0, ..., `count` - 1 keeps: float64 (count,1),

    last + (first - last) (1 + cos(pi t / count)) / 2, the curriculum of CDA (Yin and Shen 2023).
    """
    shares = [last + (first - last) * (1 + math.cos(math.pi * t / count)) / 2 for t in range(count)]
    return torch.tensor(shares, dtype=torch.float64).unsqueeze(1)


def draw_positions(
    key: int,
    count: int,
    size: int,
    *,
    pad: int | None,
    resized_crop: tuple[float | Tensor, float] | None,
    flip: bool,
    roll: int,
) -> Tensor:
    """Positions (count,2,S), float32, in px, at which `count` views sample the rows and the columns of an image of S px.

    `pad` px are added around the image and S px cut out; `resized_crop`: shares of the area, of which a crop is resized
    bilinearly, as torchvision does; the smallest may be one for each view, as `least_shares` gives; `flip`: half of the views
    are mirrored; `roll`: rolled by 0 to `roll` px in each direction. A position outside the image is padding.
    """
    pixel_S = torch.arange(size)
    rows, columns = (pixel_S.expand(count, size).double() for _ in range(2))
    if resized_crop:
        crop_N4 = draw_crops(count, size, resized_crop, RATIO, derive(key, _CROP)).double()
        rows, columns = (sampled_at(crop_N4[:, side], crop_N4[:, side + 2], size) - 0.5 for side in range(2))
    if pad:
        rows = rows + up_to(2 * pad, derive(key, _TOP), count).unsqueeze(1) - pad
        columns = columns + up_to(2 * pad, derive(key, _LEFT), count).unsqueeze(1) - pad
    if flip:
        mirrored_N1 = (uniform(derive(key, _FLIP), count) < 0.5).unsqueeze(1)
        columns = torch.where(mirrored_N1, columns.flip(1), columns)
    if roll:
        rows = rows.gather(1, (pixel_S - up_to(roll, derive(key, _DOWN), count).unsqueeze(1)) % size)
        columns = columns.gather(1, (pixel_S - up_to(roll, derive(key, _RIGHT), count).unsqueeze(1)) % size)
    return torch.stack([rows, columns], 1).float()


def view(x_BCHW: Tensor, positions_2S: Tensor, padding_1C11: Tensor) -> Tensor:
    """The view of each image at these positions, in channels_last; linear between two pixels, `padding` outside the image."""
    rows_SH, columns_SW = _weights(positions_2S[0], x_BCHW.shape[2]), _weights(positions_2S[1], x_BCHW.shape[3])
    # Plane by plane: with channels last, the products of columns would be one for each row, of three columns each.
    moved_BCHW = (x_BCHW - padding_1C11).contiguous()
    view_BCSS = rows_SH @ (moved_BCHW @ columns_SW.T) + padding_1C11
    return view_BCSS.contiguous(memory_format=torch.channels_last)


def _weights(position_S: Tensor, size: int) -> Tensor:
    """The weight (S,size) of each pixel at each position; all are 0 a pixel or more outside the image."""
    pixel_1 = torch.arange(size, device=position_S.device)
    return (1 - (position_S.unsqueeze(1) - pixel_1).abs()).clamp_min(0)
