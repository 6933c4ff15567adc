"""Tensors on their way to a device."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of pageable memory on a device. CUDA copies that in passing and is not waited for; MPS might read it later."""
    return tensor.to(device, non_blocking=device.type == "cuda")
