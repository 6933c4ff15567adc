"""The one place that chooses a device and its threads."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import Any

import torch

from gvbsm.errors import UserError
from gvbsm.runtime.arithmetic import precision_on, set_arithmetic
from gvbsm.runtime.cpu import cpu_name
from gvbsm.store.job import Job

# glibc's M_MMAP_MAX, M_TRIM_THRESHOLD and M_TOP_PAD: no mapping per block, no memory returned, growth by 256 MiB.
_MALLOC = {-4: 0, -1: -1, -2: 2**28}


def choose_device(name: str, threads: int, exact: bool = False) -> torch.device:
    """The device of this process: "auto" takes CUDA, then MPS, then the CPU. Also sets the number of CPU threads and CUDA's
    arithmetic (`set_arithmetic`), makes a GPU that is named by its number the current one, and makes the C library keep freed
    memory for later tensors.

    Raises:
        UserError: if this machine has no such device.
    """
    torch.set_num_threads(threads)
    _keep_freed_memory()
    device = _find_device(name)
    set_arithmetic(device, exact)
    if device.index is not None:  # seeds, kernels and peaks of memory are those of the current device
        torch.cuda.set_device(device)
    return device


def _find_device(name: str) -> torch.device:
    """Only GPUs of CUDA have a number: "cpu:0" is the CPU."""
    presence = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, present in presence.items() if present))
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is not None and presence.get(device.type, False):
        count = torch.cuda.device_count() if device.type == "cuda" else 1
        if (device.index or 0) < count:
            return device if device.type == "cuda" else torch.device(device.type)
    usable = ", ".join(["auto", *(kind for kind, present in presence.items() if present)])
    raise UserError(f"--device or GVBSM_DEVICE: expected one of {usable} on this machine, got {name!r}; choose one of them")


def _keep_freed_memory() -> None:
    """Keep glibc from returning large freed blocks to the system, which would clear their pages again for every batch."""
    with contextlib.suppress(OSError, AttributeError, TypeError):  # other C libraries have no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        for option, value in _MALLOC.items():
            mallopt(option, value)


def data_device(job: Job[Any]) -> None:
    """The CPU, one thread, for a job that moves data and computes nothing. What it frees goes back to the system: kept, as for
    jobs that compute, packed images would be in memory twice while they are joined."""
    torch.set_num_threads(1)
    job.device = f"cpu: {cpu_name()}"


def job_device(job: Job[Any], threads: int, exact: bool = False) -> torch.device:
    """The device of a job; sets `job.device`, the name for its receipt. `exact`: its products of float32 matrices are not in
    TF32 on CUDA, because they are statistics."""
    name = job.device
    if job.processes > 1 and _find_device(name).type == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    device = choose_device(name, threads, exact)
    if device.type == "mps" and job.processes > 1:
        raise UserError(f"--processes: expected 1 on MPS, got {job.processes}; use one, or the CPU")
    job.device = f"{device.type}: {device_name(device)}"
    asked = getattr(getattr(job.spec, "settings", None), "precision", None)
    precisions = [precision_on(device, precision) for precision in job.spec.precisions(device.type)]
    job.precisions = precisions if set(precisions) - {asked} else []
    return device


def device_name(device: torch.device) -> str:
    """The model name of a device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name()
