"""Views of the stored images: random resized crop, flip and mixing, drawn as parameters and replayed as two matrix products.

The parameters are integers and one float per view, so a view is replayed exactly in any process and any batch size: a
view names its image and, when mixed, its partner among the views of the same epoch (METHOD.md sections 4 and 5).
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class ViewSettings:
    """How views are drawn; the field names are the settings'."""

    batch_size: int
    scale: tuple[float, float]  # share of the area a crop keeps
    ratio: tuple[float, float]  # width / height of a crop
    flip: bool
    mix: str  # "cutmix", "mixup" or "none"
    mix_alpha: float  # of the Beta distribution


@dataclass(frozen=True)
class Views:
    """Parameters of V views of S x S px, in the order they are used (CPU tensors)."""

    image_V: Tensor  # int32: index of the image
    crop_V4: Tensor  # int16: top, left, height, width of the crop, px
    flip_V: Tensor  # bool
    partner_V: Tensor  # int32: position of the view that is mixed in (itself if none)
    box_V4: Tensor  # int16: top, left, bottom, right of the CutMix box, px of the view; empty if none
    keep_V: Tensor  # float32: share of the view that is its own image, 1 if not mixed

    def tensors(self) -> dict[str, Tensor]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __len__(self) -> int:
        return len(self.image_V)


def draw_views(images: int, size: int, settings: ViewSettings, generator: torch.Generator) -> Views:
    """One epoch of views of `images` images of `size` px: shuffled, in batches, the ragged last one kept.

    One mixing box (or share) and one permutation per batch, as published.
    """
    image_V = torch.randperm(images, generator=generator)
    crop_V4 = draw_crops(images, size, settings.scale, settings.ratio, generator)
    flip_V = torch.rand(images, generator=generator) < (0.5 if settings.flip else 0.0)
    partner_V = torch.arange(images)
    box_V4 = torch.zeros(images, 4, dtype=torch.int64)
    keep_V = torch.ones(images)
    if settings.mix != "none":
        for start in range(0, images, settings.batch_size):
            batch = slice(start, min(start + settings.batch_size, images))
            partner_V[batch] = start + torch.randperm(batch.stop - start, generator=generator)
            share = _draw_beta(settings.mix_alpha, generator)
            if settings.mix == "cutmix":
                top, left, bottom, right = _draw_box(size, share, generator)
                box_V4[batch] = torch.tensor([top, left, bottom, right])
                share = 1 - (bottom - top) * (right - left) / size**2
            keep_V[batch] = share
    keep_V[partner_V == torch.arange(images)] = 1.0
    return Views(image_V.int(), crop_V4.short(), flip_V, partner_V.int(), box_V4.short(), keep_V)


def draw_crops(
    count: int, size: int, scale: tuple[float, float], ratio: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """Random resized crops (count,4): top, left, height, width in px, distributed as torchvision's.

    Ten tries per crop of an area share uniform in `scale` and a log-uniform `ratio`; if none fits, the whole image.
    """
    tries = 10
    area = size**2 * (scale[0] + (scale[1] - scale[0]) * torch.rand(count, tries, generator=generator))
    low, high = torch.tensor(ratio).log()
    aspect = torch.exp(low + (high - low) * torch.rand(count, tries, generator=generator))
    width = (area * aspect).sqrt().round().long()
    height = (area / aspect).sqrt().round().long()
    fits = (width > 0) & (width <= size) & (height > 0) & (height <= size)
    first = fits.int().argmax(1, keepdim=True)
    none = ~fits.any(1)
    width = width.gather(1, first).squeeze(1).masked_fill(none, size)
    height = height.gather(1, first).squeeze(1).masked_fill(none, size)
    top = (torch.rand(count, generator=generator) * (size - height + 1)).long()
    left = (torch.rand(count, generator=generator) * (size - width + 1)).long()
    return torch.stack([top, left, height, width], dim=1)


def resize_matrix(start_V: Tensor, length_V: Tensor, size: int) -> Tensor:
    """Matrices (V,S,S) that resize the pixels [start, start + length) of an axis of S to S, as PIL's bilinear filter does.

    A triangle as wide as the scale, at least one pixel, cut at the crop's border and normalised.
    """
    length_V11 = length_V.view(-1, 1, 1).float()
    start_V11 = start_V.view(-1, 1, 1).float()
    scale = length_V11 / size
    out_1S1 = torch.arange(size, device=start_V.device).view(1, -1, 1) + 0.5
    in_11S = torch.arange(size, device=start_V.device).view(1, 1, -1) + 0.5
    weight = (1 - (in_11S - start_V11 - out_1S1 * scale).abs() / scale.clamp_min(1)).clamp_min(0)
    weight = weight * ((in_11S > start_V11) & (in_11S < start_V11 + length_V11))
    return weight / weight.sum(2, keepdim=True)


def crop_and_resize(x_VCHW: Tensor, crop_V4: Tensor, flip_V: Tensor) -> Tensor:
    """Every image's crop, resized to the image's own size and mirrored where `flip_V`: A x B^T per image and channel."""
    size = x_VCHW.shape[-1]
    top, left, height, width = crop_V4.long().unbind(1)
    rows = resize_matrix(top, height, size)
    columns = resize_matrix(left, width, size)
    columns = torch.where(flip_V.view(-1, 1, 1), columns.flip(1), columns)
    return rows.unsqueeze(1) @ x_VCHW @ columns.transpose(1, 2).unsqueeze(1)


def render(images_NCHW: Tensor, views: Views, positions: Tensor, mixed: bool = True) -> Tensor:
    """The views at `positions` (V,) of uint8 images, as float32 (V,C,S,S) in 0..1 on the images' device.

    With `mixed` false the partners are left out (mixup's published soft labels come from the un-mixed view).
    """
    device = images_NCHW.device
    partner = views.partner_V[positions].long()
    needed, where = torch.unique(torch.cat([positions, partner]), return_inverse=True)
    x = images_NCHW[views.image_V[needed].long().to(device)].float().div(255)
    x = crop_and_resize(x, views.crop_V4[needed].to(device), views.flip_V[needed].to(device))
    where = where.to(device)
    own, other = x[where[: len(positions)]], x[where[len(positions) :]]
    if not mixed:
        return own
    axis = torch.arange(x.shape[-1], device=device)
    top, left, bottom, right = views.box_V4[positions].long().to(device).T.unsqueeze(2)
    in_rows, in_columns = (axis >= top) & (axis < bottom), (axis >= left) & (axis < right)
    box_V1SS = (in_rows.unsqueeze(2) & in_columns.unsqueeze(1)).unsqueeze(1)
    has_box = (bottom > top).view(-1, 1, 1, 1)
    keep_V111 = views.keep_V[positions].to(device).view(-1, 1, 1, 1)
    return torch.where(has_box, torch.where(box_V1SS, other, own), keep_V111 * own + (1 - keep_V111) * other)


def mixed_hard_labels(labels_N: Tensor, views: Views, positions: Tensor, classes: int, mixed: bool) -> Tensor:
    """Class probabilities (V,K): one-hot, or with `mixed` the two images' labels by their share of the view."""
    own = labels_N[views.image_V[positions].long()]
    other = labels_N[views.image_V[views.partner_V[positions].long()].long()]
    keep_V1 = (views.keep_V[positions] if mixed else torch.ones(len(positions))).unsqueeze(1)
    one_hot = torch.eye(classes)
    return keep_V1 * one_hot[own.cpu()] + (1 - keep_V1) * one_hot[other.cpu()]


def _draw_beta(alpha: float, generator: torch.Generator) -> float:
    """A draw of Beta(alpha, alpha); torch's own sampler takes no generator."""
    return random.Random(int(torch.randint(2**62, (), generator=generator))).betavariate(alpha, alpha)


def _draw_box(size: int, share: float, generator: torch.Generator) -> tuple[int, int, int, int]:
    """A CutMix box: sides sqrt(1 - share) of the image around a uniform centre, clipped to the image."""
    side = int(size * (1 - share) ** 0.5)
    row, column = torch.randint(size, (2,), generator=generator).tolist()
    return (
        max(row - side // 2, 0),
        max(column - side // 2, 0),
        min(row + side // 2, size),
        min(column + side // 2, size),
    )
