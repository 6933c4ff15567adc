"""What a device can do at most: copies of its memory and products of large matrices. Goals are judged by these."""

from __future__ import annotations

import torch

from benchmarks.timing import compare
from gvbsm.runtime.arithmetic import set_arithmetic

TIMES = 20  # that each is done at once: single ones would measure launches


def run(device: torch.device, repeats: int) -> None:
    """Print bytes read and written per second, and operations per second."""
    on_gpu = device.type == "cuda"
    amount, side = (2**30, 8192) if on_gpu else (2**24, 256)
    times = TIMES if on_gpu else 1
    source, goal = torch.zeros(amount, dtype=torch.uint8, device=device), torch.empty(amount, dtype=torch.uint8, device=device)
    alternatives = {"copy": lambda: [goal.copy_(source) for _ in range(times)]}
    for name, dtype in (("TF32" if on_gpu else "float32", torch.float32), ("bfloat16", torch.bfloat16)):
        left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
        alternatives[f"product, {name}"] = lambda a=left, b=right: [a @ b for _ in range(times)]
    set_arithmetic(device, exact=False)  # TF32 on CUDA
    print("\nceilings")
    for name, timing in compare(alternatives, repeats, device).items():
        each = timing.median / times
        value = f"{2 * amount / each / 1e9:9.1f} GB/s" if name == "copy" else f"{2 * side**3 / each / 1e12:9.3f} TFLOP/s"
        print(f"  {name:<28} {value}  +- {100 * timing.spread / timing.median:4.1f} %  n={len(timing.runs)}", flush=True)
