"""Transfer of tensors to a device."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of pageable memory, copied to a device. On CUDA the call need not wait: it copies pageable memory before it
    returns. MPS might read the memory later."""
    return tensor.to(device, non_blocking=device.type == "cuda")
