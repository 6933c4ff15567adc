"""How a device computes: what decides rounding. It is counted in every fingerprint (`gvbsm.store.code`)."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path

import torch


def set_arithmetic(device: torch.device, exact: bool) -> None:
    """How this process multiplies float32 matrices: on CUDA in TF32, unless `exact`; elsewhere in float32.

    Convolutions on CUDA are in TF32 in either case, as torch has them. cuDNN does not try its algorithms out on every shape:
    most jobs have too few batches to win that time back (benchmarks/speed/gpu.md), and it may choose others in the next run.
    """
    torch.set_float32_matmul_precision("high" if device.type == "cuda" and not exact else "highest")
    torch.backends.cudnn.benchmark = False


def precision_on(device: torch.device, asked: str) -> str:
    """The precision that a device computes in where "float32" or "bfloat16" is asked for: a CPU without instructions for
    bfloat16 takes many times longer for it than for float32, and computes in float32 instead."""
    return "float32" if device.type == "cpu" and not cpu_has_bfloat16() else asked


@functools.cache
def cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16, as Linux says; elsewhere it is taken for one without."""
    with contextlib.suppress(OSError):
        words = set(Path("/proc/cpuinfo").read_text().split())
        return not words.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})  # x86, x86, ARM
    return False
