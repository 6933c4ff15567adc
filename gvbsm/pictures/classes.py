"""How sure the teachers are of the images of every class, and how much these differ: distilled against real."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from gvbsm.pictures.figures import DISTILLED, REAL, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MEASURES = {
    "confidence": "confidence:\nprobability of the true class, %",
    "diversity": "diversity: mean cosine distance between\nfeatures of two images of the class",
}
_MOST_ROWS = 25  # classes that have a row each
_NAMED = 3  # of more classes: those that lie furthest on either side


def draw(title: str, table: pd.DataFrame, teachers: int) -> Figure:
    """Two panels, of confidence and diversity: a row per class or, of many classes, a point.

    `table` has a row per class, called `name`, with the means over the `teachers` of `distilled_confidence`,
    `real_confidence` (percent), `distilled_diversity` and `real_diversity` (0..2; NaN for a class of one image).
    """
    by = f"mean of {teachers} teachers" if teachers > 1 else "one teacher"
    title = f"{title}: distilled and real images as the teachers see them ({by})"
    is_long = len(table) > _MOST_ROWS
    figure = new_figure(11, 5.8 if is_long else 2 + 0.3 * len(table), title)
    panels = figure.subplots(1, 2, sharey=not is_long)
    for panel, (measure, name) in zip(panels, _MEASURES.items(), strict=True):
        if is_long:
            _points(panel, table, measure, name)
        else:
            _rows(panel, table, measure, name)
        if table[f"distilled_{measure}"].isna().all():
            panel.text(0.5, 0.5, "needs two distilled images per class", transform=panel.transAxes, ha="center")
    if not is_long:
        panels[0].set_ylabel("class")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=10)
    return figure


def _rows(axes: Axes, table: pd.DataFrame, measure: str, name: str) -> None:
    """A row per class, with a mark for the distilled images, one for the real, and a line between them."""
    at = range(len(table))
    distilled, real = table[f"distilled_{measure}"], table[f"real_{measure}"]
    axes.hlines(at, distilled, real, color="0.75", linewidth=2, zorder=1)
    axes.scatter(real, at, color=REAL, marker="s", s=45, zorder=2, label="real (random, of the training set)")
    axes.scatter(distilled, at, color=DISTILLED, marker="o", s=45, zorder=3, label="distilled")
    axes.set_yticks(at, list(table["name"]), parse_math=False)
    axes.set_ylim(len(table) - 0.5, -0.5)
    axes.set_xlabel(name)
    axes.grid(axis="x", alpha=0.3)


def _points(axes: Axes, table: pd.DataFrame, measure: str, name: str) -> None:
    """A point per class, distilled against real; on the diagonal both are equal. The classes furthest from it have names."""
    distilled, real = table[f"distilled_{measure}"], table[f"real_{measure}"]
    axes.scatter(real, distilled, s=14, alpha=0.6, color=DISTILLED, linewidths=0, label="a class")
    ends = [min(distilled.min(), real.min()), max(distilled.max(), real.max())]
    if distilled.notna().any():
        axes.plot(ends, ends, color="0.4", linestyle="--", linewidth=1, label="equal")
    order = (distilled - real).dropna().sort_values().index
    for row in {*order[:_NAMED], *order[-_NAMED:]}:
        at, side = (real[row], distilled[row]), -1 if real[row] > real.mean() else 1  # towards the middle
        style: dict[str, Any] = {"fontsize": 8, "ha": "right" if side < 0 else "left", "parse_math": False}
        axes.annotate(table["name"][row], at, (5 * side, 4), textcoords="offset points", **style)
    axes.set_title(name, fontsize=10)
    axes.set_xlabel("real (random, of the training set)")
    axes.set_ylabel("distilled")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9)
