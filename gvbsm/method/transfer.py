"""Small tensors on their way to a device."""

from __future__ import annotations

import torch
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A CPU tensor on a device. CUDA takes a copy in passing and is not waited for; MPS would read the original later."""
    return tensor.to(device, non_blocking=device.type == "cuda")
