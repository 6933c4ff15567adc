"""Peak memory of an iteration of recover, each alternative in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.recover import SETTINGS, Problem, chosen

HOWS = ("no statistics", "plain hooks", "ours", "ours, compiled")


def run(device: torch.device, options: Namespace) -> None:
    """The imagenet row's backbones at 224 px, on the CPU by default with batches of 8: memory grows in proportion to them."""
    setting, compiled = SETTINGS["imagenet"], options.compile
    batch = options.batch or (setting.gpu_batch if device.type == "cuda" else setting.batch)
    for name in chosen(setting, options):
        print(f"\nmemory of an iteration's tensors: {name}, batch {batch}, 224 px, float32")
        peaks = {}
        for how in HOWS if compiled else HOWS[:-1]:
            command = [sys.executable, "-m", "benchmarks.memory", name, how, str(batch), str(device)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks[how] = float(done.stdout.split()[-1])
            ratio = f"{peaks[how] / peaks['plain hooks']:6.2f} of the plain hooks'" if "plain hooks" in peaks else ""
            print(f"  {how:<16} {peaks[how] / 2**20:7.0f} MiB  {ratio}")


def measure(name: str, how: str, batch: int, device: torch.device) -> float:
    """Bytes of tensors that an iteration holds at most, beyond what was there before it."""
    problem = Problem(SETTINGS["imagenet"], name, batch, device, torch.float32)
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
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        step()
        return torch.cuda.max_memory_allocated(device) - before
    return _peak_of_trace(step)


def _peak_of_trace(step: Callable[[], object]) -> float:
    """The CPU has no counter: add up the profiler's allocations (resident memory also counts what the allocator keeps)."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        step()
    with tempfile.TemporaryDirectory() as folder:
        record.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    held = peak = 0
    for event in sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"]):
        held += event["args"]["Bytes"]
        peak = max(peak, held)
    return peak


if __name__ == "__main__":
    name, how, batch, where = sys.argv[1:]
    print(measure(name, how, int(batch), torch.device(where)))
