"""Transfer of tensors to a device."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of pageable memory, copied to a device. On CUDA the memory is read before the call returns, but the device may
    not have it yet; the driver may wait for earlier work on the stream first. MPS might read the memory later, so there the
    call waits."""
    return tensor.to(device, non_blocking=device.type == "cuda")
