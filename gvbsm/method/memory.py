"""How many images are computed at once, by a budget of their values for each kind of device."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

# Values of views that are rendered together: a group that fits into a CPU's cache is several times faster; a GPU needs many
# views to be busy (2**25: a few hundred MB for each copy of them; other sizes have not been tried on one).
RENDERED = {"cpu": 2**20, "cuda": 2**25, "mps": 2**23}
# Through a network in eval mode: 500 images of 32 px on a CPU, and no more memory at 224 px (EfficientNet-B0: 100 bytes a
# value). A GPU needs more images to be busy.
PASSED = {"cpu": 500 * 3 * 32**2, "cuda": 2**24, "mps": 2**22}


def images_at_once(values: int, device: torch.device, budget: Mapping[str, int]) -> int:
    """The number of images of `values` values each that are computed at once on a device; at least one."""
    return max(1, budget[device.type] // values)


def in_parts(x_BCHW: Tensor, device: torch.device) -> tuple[Tensor, ...]:
    """A batch in parts that are small enough to pass through a network on a device."""
    return x_BCHW.split(images_at_once(x_BCHW.shape[1:].numel(), device, PASSED))
