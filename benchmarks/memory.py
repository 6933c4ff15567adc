"""Peak memory of an iteration of recover, each alternative in a process of its own."""

from __future__ import annotations

import resource
import subprocess
import sys

import torch

from benchmarks.recover import SETTINGS, Problem

HOWS = ("no statistics", "plain hooks", "ours", "ours, compiled")


def run(device: torch.device, compiled: bool, batch: int) -> None:
    """The imagenet row's backbones at 224 px."""
    setting = SETTINGS["imagenet"]
    for name in setting.backbones:
        print(f"\nmemory above the idle network's: {name}, batch {batch}, 224 px, float32")
        found = {}
        for how in HOWS if compiled else HOWS[:-1]:
            command = [sys.executable, "-m", "benchmarks.memory", name, how, str(batch), str(device)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            found[how] = float(done.stdout.split()[-1])
            ratio = f"{found[how] / found['plain hooks']:6.2f} of the plain hooks'" if "plain hooks" in found else ""
            print(f"  {how:<16} {found[how] / 2**20:7.0f} MiB  {ratio}")


def measure(name: str, how: str, batch: int, device: torch.device) -> float:
    """Bytes that two iterations take at most, beyond what was there before them."""
    problem = Problem(SETTINGS["imagenet"], name, batch, device, torch.float32)
    before = _peak(device)
    if how == "no statistics":
        step = lambda: problem.gradient(problem.bare)  # noqa: E731
    elif how == "plain hooks":
        hooks = problem.hooks()
        step = lambda: problem.gradient(lambda x: problem.plainly(hooks, x))  # noqa: E731
    else:
        matcher = problem.matcher(compiled=how != "ours")
        step = lambda: problem.gradient(lambda x: problem.ours(matcher, "float32", x))  # noqa: E731
    step()
    step()
    return _peak(device) - before


def _peak(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0


if __name__ == "__main__":
    name, how, batch, where = sys.argv[1:]
    print(measure(name, how, int(batch), torch.device(where)))
