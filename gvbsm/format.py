"""Sizes, times and accuracies as text for people."""

from __future__ import annotations

import math


def readable_bytes(size: float) -> str:
    """Three significant digits and a decimal unit: 294576 is 295 kB."""
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 999.5 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{size:.3g} {unit}"


def readable_seconds(seconds: float) -> str:
    """Whole seconds; from 2 min, 2 h or 2 days on, three significant digits in that unit: 5400 is 90 min."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def readable_spread(mean: float, std: float | None, sign: str = "") -> str:
    """Mean ± deviation with two decimals; the mean alone if `std` is None or NaN (one run). `sign` is "+" for a margin."""
    return f"{mean:{sign}.2f}" + ("" if std is None or math.isnan(std) else f" ± {std:.2f}")


def readable_seeds(seeds: int) -> str:
    """The legend for accuracies that `readable_spread` writes: over how many seeds they are taken."""
    return "one seed" if seeds == 1 else f"mean ± standard deviation over {seeds} seeds"
