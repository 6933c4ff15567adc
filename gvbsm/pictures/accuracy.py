"""Accuracies of many runs: against the number of images per class, and against the size of the soft labels."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from gvbsm.pictures.figures import COLOURS, MARKERS, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BASELINES = {"random_soft": ("random real, soft labels", ":"), "random_hard": ("random real, hard labels", "--")}


def draw_accuracies(table: pd.DataFrame) -> Figure:
    """A column per data set and student: above top-1 against IPC, if a recipe has several, below against label bytes.

    `table` is as compare makes it. Points are means over seeds, bars standard deviations.
    """
    columns = list(table.groupby(["dataset", "student"], sort=False))
    has_several = (table.groupby(["dataset", "recipe"], dropna=False)["ipc"].nunique() > 1).any()
    panels = [_against_ipc, _against_bytes] if has_several else [_against_bytes]
    figure = new_figure(1 + 5 * len(columns), 4 * len(panels), "")
    axes = figure.subplots(len(panels), len(columns), squeeze=False)
    for column, ((dataset, student), rows) in zip(axes.T, columns, strict=True):
        for draw, panel in zip(panels, column, strict=True):
            draw(panel, rows)
        column[0].set_title(f"{dataset}, {student}", parse_math=False)
    return figure


def _against_ipc(axes: Axes, rows: pd.DataFrame) -> None:
    rows = rows.assign(recipe=rows["recipe"].fillna("row's own"))
    for number, (recipe, of_recipe) in enumerate(rows.groupby("recipe", sort=False)):
        _points(axes, of_recipe.sort_values("ipc"), "ipc", "distilled", number, label=recipe, linestyle="-")
    for number, (kind, (name, line)) in enumerate(_BASELINES.items()):
        known = rows.dropna(subset=[kind]) if kind in rows else rows[:0]
        if len(known):
            # The same images under the recipes' schedules: the best of these is the bar.
            best = known.loc[known.groupby("ipc")[kind].idxmax()].sort_values("ipc")
            _points(axes, best, "ipc", kind, -1 - number, label=f"{name} (the best of all recipes)", linestyle=line)
    axes.set_xscale("log")
    axes.set_xticks(sorted(rows["ipc"].unique()), [str(ipc) for ipc in sorted(rows["ipc"].unique())])
    axes.minorticks_off()
    axes.set_xlabel("images per class")
    _finish(axes)


def _against_bytes(axes: Axes, rows: pd.DataFrame) -> None:
    for number, (ipc, of_ipc) in enumerate(rows.groupby("ipc", sort=True)):
        stored = of_ipc[of_ipc["label_bytes"] > 0].sort_values("label_bytes")
        _points(axes, stored, "label_bytes", "distilled", number, label=f"{ipc} per class", linestyle="none")
        shared = os.path.commonprefix([name for name in of_ipc["recipe"] if isinstance(name, str)])  # noqa: RUF071 (they are not paths)
        for _, row in stored.iterrows():
            name = row["recipe"].removeprefix(shared).lstrip("_-") or shared if isinstance(row["recipe"], str) else "row's own"
            at = (row["label_bytes"], row["distilled"])
            axes.annotate(name, at, (4, 4), textcoords="offset points", fontsize=7, rotation=30, parse_math=False)
        for _, row in of_ipc[of_ipc["label_bytes"] == 0].iterrows():
            style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)], "linestyle": "--"}
            axes.axhline(row["distilled"], label=f"{ipc} per class, none stored", **style)
    axes.set_xscale("log")
    axes.margins(x=0.2, y=0.15)  # for the names
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(EngFormatter("B"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("soft labels")
    _finish(axes)


def _points(axes: Axes, rows: pd.DataFrame, x: str, kind: str, number: int, **style: Any) -> None:
    index = number % len(COLOURS)
    look: dict[str, Any] = {"color": COLOURS[index], "marker": MARKERS[index], "capsize": 3, "markersize": 5}
    axes.errorbar(rows[x], rows[kind], yerr=rows[f"{kind}_std"], **look, **style)


def _finish(axes: Axes) -> None:
    axes.set_ylabel("top-1 accuracy, % (mean ± std)")
    axes.grid(alpha=0.3)
    # Below the axes, where no point lies.
    axes.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False)
