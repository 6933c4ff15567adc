"""The one place that chooses a device, its threads and its precision."""

from __future__ import annotations

import contextlib

import torch

from gvbsm.errors import UserError


def choose_device(name: str, threads: int) -> torch.device:
    """The device of this process: "auto" takes CUDA, then MPS, then the CPU. Sets the number of CPU threads.

    Raises:
        UserError: if the named device is not there.
    """
    torch.set_num_threads(threads)
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, present in there.items() if present))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or not there.get(device.type, False):
        usable = ", ".join(["auto", *(kind for kind, present in there.items() if present)])
        raise UserError(f"--device: expected one of {usable} on this machine, got {name!r}; choose one of them")
    return device


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager[None]:
    """Convolutions and matrix products in `precision` ("float32" or "bfloat16")."""
    if precision == "float32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=getattr(torch, precision))
