"""Views of the stored images: random resized crop, flip and mixing, drawn as parameters, rendered in batches.

The parameters are integers and one float per view, so any process renders the same view in a batch of any size. A view names
its image and, if mixed, its partner among the views of the same epoch.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor

from gvbsm.method.crops import crop_and_resize, draw_crops
from gvbsm.method.draws import derive, permutation, uniform, uniform_at
from gvbsm.method.memory import RENDERED, images_at_once
from gvbsm.method.transfer import send

# The purposes of random numbers; each has its own key.
_ORDER, _FLIP = range(2)  # 2 to 5 are those of the crops
_PARTNER, _SHARE, _BOX, _CELL, _OPERATION = range(6, 11)
OPERATIONS = 14  # RandAugment's (Cubuk et al. 2020)
CPU = torch.device("cpu")


@dataclass(frozen=True)
class ViewSettings:
    """How views are drawn; the field names are the settings'."""

    batch_size: int
    scale: tuple[float, float]  # share of the area a crop keeps
    ratio: tuple[float, float]  # width / height of a crop
    flip: bool
    mix: str  # "cutmix", "mixup" or "none"
    mix_alpha: float  # of the Beta distribution
    cells: int = 1  # n: a view is of one of the n x n cells of its image
    operations: int = 0  # of RandAugment


@dataclass(frozen=True)
class Views:
    """Parameters of V views of S x S px, in the order they are used (CPU tensors)."""

    image_V: Tensor  # int32: index of the image
    crop_V4: Tensor  # int16: top, left, height, width of the crop, px
    flip_V: Tensor  # bool
    partner_V: Tensor  # int32: position of the view that is mixed in (itself if none)
    box_V4: Tensor  # int16: top, left, bottom, right of the CutMix box, px of the view; empty if none
    keep_V: Tensor  # float32: share of the view that is its own image, 1 if not mixed
    operation_VR: Tensor | None = None  # uint8: RandAugment's R operations, 2 x its number, + 1 if negative

    def tensors(self) -> dict[str, Tensor]:
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def __len__(self) -> int:
        return len(self.image_V)


def draw_views(images: int, size: int, settings: ViewSettings, key: int) -> Views:
    """One epoch of views of `images` images of `size` px: shuffled, in batches, the ragged last one kept.

    One mixing box (or share) and one permutation per batch, as published. `key` (63 bits) seeds all random numbers.
    """
    image_V = permutation(derive(key, _ORDER), images)
    crop_V4 = draw_crops(images, size // settings.cells, settings.scale, settings.ratio, key)
    if settings.cells > 1:
        cell_V2 = (uniform(derive(key, _CELL), images * 2) * settings.cells).long().view(images, 2)
        crop_V4[:, :2] += cell_V2 * (size // settings.cells)
    flip_V = uniform(derive(key, _FLIP), images) < (0.5 if settings.flip else 0.0)
    partner_V = torch.arange(images)
    box_V4 = torch.zeros(images, 4, dtype=torch.int64)
    keep_V = torch.ones(images)
    if settings.mix != "none":
        for number, start in enumerate(range(0, images, settings.batch_size)):
            batch = slice(start, min(start + settings.batch_size, images))
            partner_V[batch] = start + permutation(derive(key, _PARTNER, number), batch.stop - start)
            share = _draw_beta(settings.mix_alpha, derive(key, _SHARE, number))
            if settings.mix == "cutmix":
                top, left, bottom, right = box = _draw_box(size, share, derive(key, _BOX, number))
                box_V4[batch] = torch.tensor(box)
                share = 1 - (bottom - top) * (right - left) / size**2
            keep_V[batch] = share
    keep_V[partner_V == torch.arange(images)] = 1.0
    operation_VR = None
    if settings.operations:
        drawn = uniform(derive(key, _OPERATION), images * settings.operations) * (2 * OPERATIONS)
        operation_VR = drawn.to(torch.uint8).view(images, settings.operations)
    return Views(image_V.int(), crop_V4.short(), flip_V, partner_V.int(), box_V4.short(), keep_V, operation_VR)


def digest(views: Views) -> str:
    """16 hexadecimal digits of the SHA-256 of all parameters: each tensor's bytes in the order of the fields."""
    content = b"".join(tensor.numpy().tobytes() for tensor in views.tensors().values())
    return hashlib.sha256(content).hexdigest()[:16]


class Images(Protocol):
    """uint8 images (N,C,S,S): a tensor, or an object that gives a tensor of the images at an index (B,)."""

    shape: torch.Size

    def __getitem__(self, index_B: Tensor, /) -> Tensor: ...


def render(
    images_NCHW: Images | Tensor,
    views: Views,
    positions: Tensor,
    mixed: bool = True,
    finish: Callable[[Tensor], Tensor] = lambda levels_VCHW: levels_VCHW / 255,
    device: torch.device = CPU,
    augment: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> Tensor:
    """The views at `positions` (V,) of uint8 images: float32 (V,C,S,S) on `device`, in channels_last.

    `augment` applies the views' operations (V,R) to levels 0..255, to each view separately. `finish` maps levels to network
    inputs, linearly per channel (default: to 0..1). With `mixed` false the views are not mixed (mixup's published soft labels
    are of the unmixed view). A view does not depend on the other views of the call.
    """
    count, (channels, size) = len(positions), images_NCHW.shape[-3:-1]
    rendered, partner_V = _with_partners(views, positions) if mixed else (positions, positions)
    shape = (len(rendered), channels, size, size)
    x = torch.empty(shape, device=device, memory_format=torch.channels_last)
    done = 0
    for part in rendered.split(images_at_once(channels * size**2, device, RENDERED)):
        crop, flip = send(views.crop_V4[part], device), send(views.flip_V[part], device)
        index = views.image_V[part].long()
        if isinstance(images_NCHW, Tensor):
            index = send(index, images_NCHW.device)
        levels = send(images_NCHW[index], device).float()
        levels = crop_and_resize(levels, crop, flip)
        if augment and views.operation_VR is not None:
            levels = augment(levels, views.operation_VR[part])
        x[done : done + len(part)] = finish(levels)
        done += len(part)
    if mixed:
        _mix(x, partner_V, views.box_V4[positions].long(), views.keep_V[positions])
    return x[:count]


def grouped(batches: Sequence[Tensor], values: int, device: torch.device) -> Iterator[list[Tensor]]:
    """Consecutive batches (or parts of batches) of positions in groups to be rendered at once on a device; a view has `values`
    values.

    RandAugment and copies to a device cost about as much for many views as for few.
    """
    count = images_at_once(values * len(batches[0]), device, RENDERED) if batches else 1
    for start in range(0, len(batches), count):
        yield list(batches[start : start + count])


def _with_partners(views: Views, positions: Tensor) -> tuple[Tensor, Tensor]:
    """`positions` followed by the missing partners, and each position's partner as an index (V,) into this list."""
    partner_V = views.partner_V[positions].long()
    place = torch.full((len(views),), -1)
    place[positions] = torch.arange(len(positions))
    missing = partner_V[place[partner_V] < 0].unique()
    place[missing] = len(positions) + torch.arange(len(missing))
    return torch.cat([positions, missing]), place[partner_V]


def _mix(x_NCHW: Tensor, partner_V: Tensor, box_V4: Tensor, keep_V: Tensor) -> None:
    """Mix the first V views with their partners in place: paste the partner's box (CutMix) or, without a box, blend (mixup)."""
    changes: list[tuple[tuple[Any, ...], Tensor]] = []  # all computed before the first is written: partners are mixed too
    boxes_B4, box_of_V = box_V4.unique(dim=0, return_inverse=True)  # one box per batch
    for number, (top, left, bottom, right) in enumerate(boxes_B4.tolist()):
        views = ((box_of_V == number) & (keep_V < 1)).nonzero().squeeze(1)
        own, other = send(views, x_NCHW.device), send(partner_V[views], x_NCHW.device)
        if bottom > top:
            box = (slice(None), slice(top, bottom), slice(left, right))
            changes.append(((own, *box), x_NCHW[other, *box]))
        else:
            keep_V111 = send(keep_V[views], x_NCHW.device).view(-1, 1, 1, 1)
            changes.append(((own,), keep_V111 * x_NCHW[own] + (1 - keep_V111) * x_NCHW[other]))
    for where, change in changes:
        x_NCHW[where] = change


def mixed_hard_labels(labels_N: Tensor, views: Views, positions: Tensor, classes: int, mixed: bool) -> Tensor:
    """Class probabilities (V,K): one-hot, or with `mixed` both images' labels weighted by their share of the view."""
    own = labels_N[views.image_V[positions].long()]
    other = labels_N[views.image_V[views.partner_V[positions].long()].long()]
    keep_V1 = (views.keep_V[positions] if mixed else torch.ones(len(positions))).unsqueeze(1)
    probabilities_VK = torch.zeros(len(positions), classes)
    for label_V, share_V1 in ((own, keep_V1), (other, 1 - keep_V1)):
        probabilities_VK.scatter_add_(1, label_V.cpu().unsqueeze(1), share_V1)
    return probabilities_VK


def _draw_beta(alpha: float, key: int) -> float:
    """A draw of Beta(alpha, alpha), which is uniform for alpha = 1, the usual value."""
    return uniform_at(key, 0) if alpha == 1 else random.Random(key).betavariate(alpha, alpha)


def _draw_box(size: int, share: float, key: int) -> tuple[int, int, int, int]:
    """A CutMix box: sides sqrt(1 - share) of the image around a uniform centre, clipped to the image."""
    side = int(size * math.sqrt(1 - share))
    row, column = (int(uniform_at(key, place) * size) for place in range(2))
    return (
        max(row - side // 2, 0),
        max(column - side // 2, 0),
        min(row + side // 2, size),
        min(column + side // 2, size),
    )
