"""How distilled images come about: some of them before ever later iterations, and at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gvbsm.pictures.figures import new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw(title: str, images: np.ndarray, iterations: list[int], names: list[str], classes: int) -> Figure:
    """A row per class, a column per iteration.

    `images` are uint8 (M,T,C,S,S), their classes called `names` (of `classes` in all), `iterations` how many each of the T
    had gone through.
    """
    rows, columns, size = images.shape[0], images.shape[1], images.shape[-1]
    of = f", {rows} of {classes} classes" if rows < classes else ""
    cell = min(max(size / 160, 0.8), 1.4)  # inches
    width = max(2 + cell * columns, 7)
    figure = new_figure(width, 0.9 + cell * rows, f"{title}{of}: one image of each class on its way")
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, name in enumerate(names):
        for column, panel in enumerate(axes[row]):
            image_CSS = images[row, column]
            shown = image_CSS[0] if len(image_CSS) == 1 else np.moveaxis(image_CSS, 0, 2)
            panel.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            panel.set_xticks([])
            panel.set_yticks([])
            panel.set_frame_on(False)
        axes[row][0].set_ylabel(short_name(name), rotation=0, ha="right", va="center", fontsize=11, parse_math=False)
    for column, iteration in enumerate(iterations):
        text = f"{'iteration ' if not column else ''}{iteration:,}"
        axes[0][column].set_title(text, fontsize=10)
    return figure
