"""Accuracies of many runs: beside their baselines, against images per class, and against the size of the soft labels."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter
from matplotlib.transforms import ScaledTranslation

from gvbsm.pictures.figures import COLOURS, LINES, MARKERS, new_figure
from gvbsm.pictures.names import KINDS, kind_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ALIKE = 1.1  # sizes of labels that differ by less than this factor are one size
_WIDE = 300  # ratio of the largest size to the smallest, from which on only powers of ten have room for their labels
_NARROW = 2.0  # points of accuracy that are shown at least: less would make much of nothing


def draw_accuracies(table: pd.DataFrame) -> Figure:
    """A column per data set and student: all runs, each beside its baselines; below, against IPC and label bytes.

    `table` is as compare makes it. A recipe with several IPCs is needed for the second panel, labels of several sizes for the
    third, which names the best run of each size. Points are means over seeds, bars standard deviations.
    """
    columns = list(table.groupby(["dataset", "student"], sort=False))
    has_several = (table.groupby(["dataset", "recipe"], dropna=False)["ipc"].nunique() > 1).any()
    stored = table.loc[table["label_bytes"] > 0, "label_bytes"]
    has_sizes = len(stored) > 0 and stored.max() > _ALIKE * stored.min()
    panels = [_by_run, *([_against_ipc] if has_several else []), *([_against_bytes] if has_sizes else [])]
    heights = [1.4 + 0.3 * max(len(rows) + 0.6 * rows["ipc"].nunique() for _, rows in columns), *[4.0] * (len(panels) - 1)]
    figure = new_figure(1 + 5.5 * len(columns), sum(heights), "")
    axes = figure.subplots(len(panels), len(columns), squeeze=False, height_ratios=heights)
    for column, ((dataset, student), rows) in zip(axes.T, columns, strict=True):
        for draw, panel in zip(panels, column, strict=True):
            draw(panel, rows)
        column[0].set_title(f"{dataset}, {student}", parse_math=False)
    return figure


def _by_run(axes: Axes, rows: pd.DataFrame) -> None:
    """A row per run: what its students reach on the distilled images, and on each baseline; a gap between IPCs."""
    rows = rows.sort_values("ipc", kind="stable")
    at = np.arange(len(rows)) + 0.6 * rows["ipc"].rank(method="dense").sub(1).to_numpy()
    for number, kind in enumerate(KINDS):
        if kind in rows and rows[kind].notna().any():
            look: dict[str, Any] = {"color": COLOURS[number], "marker": MARKERS[number], "zorder": 3 - 0.1 * number}
            look |= {"linestyle": "none", "capsize": 3, "markersize": 6, "mfc": None if kind == "distilled" else "none"}
            axes.errorbar(rows[kind], at, xerr=rows[f"{kind}_std"], label=kind_name(kind), **look)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, (low + high - _NARROW) / 2), max(high, (low + high + _NARROW) / 2))
    several = rows["ipc"].nunique() > 1
    names = [f"{name}, {ipc} per class" if several else name for name, ipc in zip(_names(rows), rows["ipc"], strict=True)]
    axes.set_yticks(at, names, parse_math=False)
    axes.set_ylim(at[-1] + 0.5, -0.5)
    axes.set_xlabel(_accuracy(rows))
    _finish(axes)


def _names(rows: pd.DataFrame) -> list[str]:
    return [name if isinstance(name, str) else "row's own" for name in rows["recipe"]]


def _accuracy(rows: pd.DataFrame) -> str:
    return f"top-1 accuracy, % ({'mean ± std' if rows['seeds'].max() > 1 else 'one seed'})"


def _against_ipc(axes: Axes, rows: pd.DataFrame) -> None:
    for number, (recipe, of_recipe) in enumerate(rows.assign(recipe=_names(rows)).groupby("recipe", sort=False)):
        # Black is for random real images; a second round of the other colours has hollow marks.
        turn, colour = divmod(number, len(COLOURS) - 1)
        style: dict[str, Any] = {"label": recipe, "linestyle": "-", "mfc": "white" if turn % 2 else None}
        _points(axes, of_recipe.sort_values("ipc"), "ipc", "distilled", colour, **style)
    for number, kind in enumerate(KINDS):
        known = rows.dropna(subset=[kind]) if kind in rows and kind.startswith("random") else rows[:0]
        if len(known):
            # The same images under the recipes' schedules: the best of these is the bar.
            best = known.loc[known.groupby("ipc")[kind].idxmax()].sort_values("ipc")
            label = f"{kind_name(kind)} (the best of all recipes)"
            _points(axes, best, "ipc", kind, -1, label=label, linestyle=LINES[number])
    axes.set_xscale("log")
    axes.set_xticks(sorted(rows["ipc"].unique()), [str(ipc) for ipc in sorted(rows["ipc"].unique())])
    axes.minorticks_off()
    axes.set_xlabel("images per class")
    axes.set_ylabel(_accuracy(rows))
    _finish(axes)


def _against_bytes(axes: Axes, rows: pd.DataFrame) -> None:
    for number, (ipc, of_ipc) in enumerate(rows.groupby("ipc", sort=True)):
        stored = of_ipc[of_ipc["label_bytes"] > 0].sort_values("label_bytes")
        _points(axes, stored, "label_bytes", "distilled", number, label=f"{ipc} per class", linestyle="none")
        shared = os.path.commonprefix([name for name in of_ipc["recipe"] if isinstance(name, str)])  # noqa: RUF071 (they are not paths)
        sizes = np.log(stored["label_bytes"]).diff().gt(np.log(_ALIKE)).cumsum()
        best = stored.loc[stored.groupby(sizes)["distilled"].idxmax()]  # of one size, where names would overlap
        for name, (_, row) in zip(_names(best), best.iterrows(), strict=True):
            at = (row["label_bytes"], row["distilled"])
            short = name.removeprefix(shared).lstrip("_-") or name
            axes.annotate(short, at, (4, 4), textcoords="offset points", fontsize=7, rotation=30, parse_math=False)
        for _, row in of_ipc[of_ipc["label_bytes"] == 0].iterrows():
            style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linestyle": "--"}
            axes.axhline(row["distilled"], label=f"{ipc} per class, none stored", **style)
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.15)  # for the names
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < _WIDE * low else (1,)))
    axes.xaxis.set_major_formatter(EngFormatter("B"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("soft labels")
    axes.set_ylabel(_accuracy(rows))
    _finish(axes)


def _points(axes: Axes, rows: pd.DataFrame, x: str, kind: str, number: int, **style: Any) -> None:
    index = number % len(COLOURS)
    look: dict[str, Any] = {"color": COLOURS[index], "marker": MARKERS[index], "capsize": 3, "markersize": 5}
    axes.errorbar(rows[x], rows[kind], yerr=rows[f"{kind}_std"], **look, **style)


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    # Below the axes, where no point lies, and below their label, which is some 40 points high whatever the panel's height.
    figure = axes.get_figure(root=True)
    assert figure is not None
    below = axes.transAxes + ScaledTranslation(0, -40 / 72, figure.dpi_scale_trans)
    look: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "bbox_transform": below}
    axes.legend(fontsize=8, ncols=2, frameon=False, **look)
