"""Timing of alternatives in turn, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from gvbsm.runtime.arithmetic import precision_on


@dataclass(frozen=True)
class Timing:
    """Seconds of one alternative."""

    runs: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.runs)

    @property
    def spread(self) -> float:
        """Half of the interquartile range."""
        if len(self.runs) < 2:
            return 0.0
        low, _, high = statistics.quantiles(self.runs, n=4)
        return (high - low) / 2


def compare(alternatives: dict[str, Callable[[], object]], repeats: int, device: torch.device) -> dict[str, Timing]:
    """Seconds of every alternative, run in turn `repeats` times after two runs that do not count."""
    runs: dict[str, list[float]] = {name: [] for name in alternatives}
    for number in range(repeats + 2):
        for name, run in alternatives.items():
            _wait(device)
            started = time.perf_counter()
            run()
            _wait(device)
            if number > 1:
                runs[name].append(time.perf_counter() - started)
    return {name: Timing(seconds) for name, seconds in runs.items()}


def added(parts: list[dict[str, Timing]]) -> dict[str, Timing]:
    """Timings of a cycle: the first run of every part together, the second, and so on."""
    return {name: Timing([sum(runs) for runs in zip(*(part[name].runs for part in parts), strict=True)]) for name in parts[0]}


def report(title: str, timings: dict[str, Timing], baseline: str, amount: float = 1, unit: str = "s") -> None:
    """One line per alternative: median, spread, n, and how many times faster than the baseline."""
    print(f"\n{title}")
    for name, timing in timings.items():
        ratio = timings[baseline].median / timing.median
        value = f"{timing.median:9.4f} s" if unit == "s" else f"{amount / timing.median:9.1f} {unit}"
        print(f"  {name:<34} {value}  +- {100 * timing.spread / timing.median:4.1f} %  n={len(timing.runs)}  {ratio:6.2f} x")


def precisions_on(device: torch.device) -> list[str]:
    """Those that the device computes in: a CPU without instructions for bfloat16 computes in float32 instead."""
    return list(dict.fromkeys(precision_on(device, asked) for asked in ("float32", "bfloat16")))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
