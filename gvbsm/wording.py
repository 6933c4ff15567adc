"""Sizes and times as people say them."""

from __future__ import annotations


def readable_bytes(size: float) -> str:
    """Three digits and a decimal unit: 294576 is 295 kB."""
    units = iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    while size >= 999.5 and unit != "TB":
        size, unit = size / 1000, next(units)
    return f"{size:.3g} {unit}"


def readable_seconds(seconds: float) -> str:
    """Whole seconds, or from two of a larger unit three digits of it: 5400 is 90 min."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"
