"""The precision that a stage computes in."""

from __future__ import annotations

import contextlib

import torch
from torch import nn

from gvbsm.runtime.arithmetic import precision_on


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[None]:
    """Convolutions and matrix products in `precision` ("float32" or "bfloat16"), or in what the device has instead."""
    precision = precision_on(device, precision)
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))


def hold_weights(frozen: nn.Module, device: torch.device, precision: str) -> None:
    """Keep the weights of convolutions and linear layers as `autocast` would cast them again in every pass.

    Only of torch's own classes: others may compute with their weights before they cast them.
    """
    if precision_on(device, precision) != "float32":
        for module in frozen.modules():
            if type(module) in (nn.Conv2d, nn.Linear):
                module.to(getattr(torch, precision))
