"""Random crops of batches: of padded images, and resized ones, distributed as torchvision's."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from gvbsm.method.draws import derive, uniform

RATIO = (3 / 4, 4 / 3)  # width / height of a random resized crop, torchvision's
_AREA, _ASPECT, _TOP, _LEFT = range(2, 6)  # the purposes of random numbers; each has its own key


def draw_crops(count: int, size: int, scale: tuple[float | Tensor, float], ratio: tuple[float, float], key: int) -> Tensor:
    """Random resized crops (count,4): top, left, height, width in px, distributed as torchvision's.

    Ten tries per crop of an area share uniform in `scale` and a log-uniform `ratio`; if none fits, the whole image. The least
    share may be one for each crop: float64 (count,1).
    """
    tries = 10
    area = size**2 * (scale[0] + (scale[1] - scale[0]) * uniform(derive(key, _AREA), count * tries).view(count, tries))
    low, high = (math.log(end) for end in ratio)
    aspect = torch.exp(low + (high - low) * uniform(derive(key, _ASPECT), count * tries).view(count, tries))
    width = (area * aspect).sqrt().round().long()
    height = (area / aspect).sqrt().round().long()
    fits = (width > 0) & (width <= size) & (height > 0) & (height <= size)
    first = fits.int().argmax(1, keepdim=True)
    none = ~fits.any(1)
    width = width.gather(1, first).squeeze(1).masked_fill(none, size)
    height = height.gather(1, first).squeeze(1).masked_fill(none, size)
    top = (uniform(derive(key, _TOP), count) * (size - height + 1)).long()
    left = (uniform(derive(key, _LEFT), count) * (size - width + 1)).long()
    return torch.stack([top, left, height, width], dim=1)


def crop_and_resize(x_VCHW: Tensor, crop_V4: Tensor, flip_V: Tensor) -> Tensor:
    """Every image's crop, bilinearly resized to the image's own size S x S and mirrored where `flip_V`; float32 in and out.

    As in PIL, no pixel outside the crop is read. A crop is at most S px, so the resize never shrinks and two pixels per
    direction suffice.
    """
    size = x_VCHW.shape[-1]
    top, left, height, width = crop_V4.float().unbind(1)
    rows, columns = (sampled_at(start, length, size) * (2 / size) - 1 for start, length in ((top, height), (left, width)))
    columns = torch.where(flip_V.unsqueeze(1), columns.flip(1), columns)
    grid_VSS2 = torch.stack(torch.broadcast_tensors(columns.unsqueeze(1), rows.unsqueeze(2)), dim=3)
    return F.grid_sample(x_VCHW, grid_VSS2, mode="bilinear", padding_mode="border", align_corners=False)


def cut(x_BCSS: Tensor, pad: int, top_B: Tensor, left_B: Tensor, flip_B: Tensor) -> Tensor:
    """Every image within `pad` px of zeros, cut to its own size at its own offset, int64 (B,), 0 to 2 `pad`, and mirrored where
    `flip_B`; any dtype."""
    count, channels, size = x_BCSS.shape[:3]
    pixel_S = torch.arange(size, device=x_BCSS.device)
    rows_BS, columns_BS = top_B.unsqueeze(1) + pixel_S, left_B.unsqueeze(1) + pixel_S
    columns_BS = torch.where(flip_B.unsqueeze(1), columns_BS.flip(1), columns_BS)
    if pad:
        x_BCSS = F.pad(x_BCSS, (pad,) * 4)
        x_BCSS = x_BCSS.gather(2, rows_BS.view(count, 1, size, 1).expand(-1, channels, -1, size + 2 * pad))
    return x_BCSS.gather(3, columns_BS.view(count, 1, 1, size).expand(-1, channels, size, -1))


def sampled_at(start_V: Tensor, length_V: Tensor, size: int) -> Tensor:
    """Where (V,S) an axis is sampled to resize [start, start + length) to `size` px, in px from its beginning: the centre of
    its first pixel is at .5. As in PIL, no pixel outside is read."""
    start_V1, length_V1 = start_V.unsqueeze(1), length_V.unsqueeze(1)
    at_VS = start_V1 + (torch.arange(size, device=start_V.device) + 0.5) * (length_V1 / size)
    return torch.clamp(at_VS, start_V1 + 0.5, start_V1 + length_V1 - 0.5)
