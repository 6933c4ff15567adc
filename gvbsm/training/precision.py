"""The precision that a stage computes in."""

from __future__ import annotations

import contextlib

import torch

from gvbsm.runtime.devices import precision_on

__all__ = ["autocast", "precision_on"]


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[None]:
    """Convolutions and matrix products in `precision` ("float32" or "bfloat16"), or in what the device has instead."""
    precision = precision_on(device, precision)
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))
