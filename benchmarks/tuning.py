"""What it costs when cuDNN tries its algorithms out (`torch.backends.cudnn.benchmark`), and what it saves afterwards."""

from __future__ import annotations

import multiprocessing
import time

import torch

from benchmarks.timing import Timing
from gvbsm.backbones.build import build
from gvbsm.runtime.devices import choose_device
from gvbsm.training.precision import autocast

# Network, px, images: a pass of recover on ImageNet, and one of a student on CIFAR-10.
SHAPES = (("torchvision:resnet18", 224, 80), ("torchvision:mobilenet_v2", 224, 80), ("resnet18", 32, 25))


def run(device: torch.device, repeats: int) -> None:
    """First and later passes with backward, each way in a process of its own: cuDNN keeps what it has found."""
    for name, size, count in SHAPES:
        print(f"\ntuning: {name}, {size} px, batch {count}, bfloat16")
        for tries in (False, True):
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                first, *later = pool.apply(_passes, (name, size, count, str(device), tries, repeats + 1))
            timing = Timing(later)
            how = "tries algorithms out" if tries else "as it is"
            print(
                f"  {how:<22} first {first:7.2f} s, then {1e3 * timing.median:9.3f} ms  "
                f"+- {100 * timing.spread / timing.median:4.1f} %  n={len(later)}",
                flush=True,
            )


def _passes(name: str, size: int, count: int, device_name: str, tries: bool, runs: int) -> list[float]:
    """Seconds of `runs` passes, the first one with all that a new process has to load."""
    device = choose_device(device_name, torch.get_num_threads())
    torch.backends.cudnn.benchmark = tries
    model = build(name, classes=10, image_size=size).eval().requires_grad_(False)
    model = model.to(device, memory_format=torch.channels_last)
    x_BCHW = torch.randn(count, 3, size, size, device=device).contiguous(memory_format=torch.channels_last).requires_grad_()
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        with autocast(device, "bfloat16"):
            loss = model(x_BCHW).float().sum()
        torch.autograd.grad(loss, x_BCHW)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - started)
    return seconds
