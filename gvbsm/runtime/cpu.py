"""What this machine's CPU is; without torch, which takes seconds to load."""

from __future__ import annotations

import contextlib
import functools
import platform
from pathlib import Path


def cpu_name() -> str:
    """The model name of the CPU."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def cpu_has_bfloat16() -> bool:
    """Whether the CPU has instructions for products of bfloat16, as Linux says; elsewhere it is taken for one without."""
    with contextlib.suppress(OSError):
        words = set(Path("/proc/cpuinfo").read_text().split())
        return not words.isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})  # x86, x86, ARM
    return False
