"""Training curves of a run's students, on distilled images and on the baselines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.ticker import LogLocator, NullFormatter

from gvbsm.pictures.figures import COLOURS, LINES, MARKERS, new_figure
from gvbsm.pictures.names import KINDS, kind_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MANY = 25  # points of a line, beyond which markers would hide it


def draw(title: str, table: pd.DataFrame) -> Figure:
    """A column per student: above the test accuracy, below the training loss, after every epoch.

    `table` has a row per `student`, `kind` of training, `seed` and `epoch`, with `loss`, and where tested `top1` in percent.
    Lines are means over seeds, bands the standard deviation.
    """
    students = list(table["student"].unique())
    seeds = table["seed"].nunique()
    spread = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    figure = new_figure(1 + 4.5 * len(students), 7, f"{title}: training of students ({spread})")
    axes = figure.subplots(2, len(students), squeeze=False, sharex="col", sharey="row")
    for column, student in enumerate(students):
        rows = table[table["student"] == student]
        above, below = axes[0][column], axes[1][column]
        for number, kind in enumerate(KINDS):
            look: dict[str, Any] = {"color": COLOURS[number], "linestyle": LINES[number], "label": kind_name(kind)}
            _line(above, rows[rows["kind"] == kind], "top1", MARKERS[number], look)
            _line(below, rows[rows["kind"] == kind], "loss", MARKERS[number], look)
        above.set_title(f"student {student}", fontsize=11, parse_math=False)
        below.set_xlabel("epoch")
        below.set_yscale("log")
        below.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        below.yaxis.set_major_formatter("{x:g}")
        below.yaxis.set_minor_formatter(NullFormatter())
        for panel in (above, below):
            panel.grid(alpha=0.3)
    axes[0][0].set_ylabel("top-1 accuracy on test images, %")
    axes[1][0].set_ylabel("training loss\n(soft and hard labels have different ones)")
    axes[0][-1].legend(fontsize=9, loc="lower right")
    return figure


def _line(axes: Axes, rows: pd.DataFrame, value: str, marker: str, look: dict[str, Any]) -> None:
    """The mean over seeds of one value, with a band."""
    known = rows.dropna(subset=[value])
    if known.empty:
        return
    spread = known.groupby("epoch")[value].agg(["mean", "std"])
    axes.plot(spread.index, spread["mean"], marker=marker if len(spread) <= _MANY else None, markersize=5, **look)
    std = spread["std"].fillna(0)
    axes.fill_between(spread.index, spread["mean"] - std, spread["mean"] + std, color=look["color"], alpha=0.2, linewidth=0)
