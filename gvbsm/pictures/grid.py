"""A picture of an image set, one row per class, beside real images of the same classes."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from gvbsm.data.image_set import ImageSet
from gvbsm.pictures.figures import short_name

MOST_CLASSES, MOST_IMAGES, MOST_REAL = 20, 10, 5
DPI = 100  # at which a pixel of the figure is one of the picture
_SMALLEST, _LARGEST = 64, 140  # sides of an image in the picture, px
_GAP, _BETWEEN, _EDGE, _LINE = 5, 30, 8, 22  # px: between images, between blocks, around, of a line


def draw_grid(images: ImageSet, real: ImageSet | None, class_names: list[str], title: str) -> Figure:
    """An image set by class: at most 20 classes and 10 images of each, which a line then says; then up to 5 `real` images of
    each, if there are any. Small images are enlarged by a whole number, so that their pixels stay squares."""
    classes = min(len(class_names), MOST_CLASSES)
    blocks = {"distilled": _block(images, classes, MOST_IMAGES)}
    if real is not None:
        blocks["real"] = _block(real, classes, MOST_REAL)
    lines = [title]
    shown = min(MOST_IMAGES, max(int((images.labels == label).sum()) for label in range(classes)))
    if classes < len(class_names) or len(images.labels) > shown * len(class_names):
        first = f"first {shown} images" if shown > 1 else "first image"
        lines.append(f"the {first} of the first {classes} classes")
    names = [short_name(name) for name in class_names[:classes]]
    left = _EDGE + max(_width(name, 11) for name in names) + _EDGE
    right = left + sum(block.shape[1] for block in blocks.values()) + _BETWEEN * (len(blocks) - 1)
    width = max(right, _EDGE + max(_width(line, 12) for line in lines)) + _EDGE
    top = _EDGE + _LINE * (len(lines) + 1)  # the blocks have headings
    block_height = blocks["distilled"].shape[0]
    height = top + block_height + _EDGE
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI)

    def write(text: str, x: float, y: float, size: int, align: str) -> None:
        figure.text(x / width, 1 - y / height, text, fontsize=size, ha=align, va="center", parse_math=False)

    for number, line in enumerate(lines):
        write(line, _EDGE, _EDGE + _LINE * (number + 0.5), 12 if number == 0 else 10, "left")
    x = left
    for heading, block in blocks.items():
        write(heading, x, top - _LINE / 2, 10, "left")
        axes = figure.add_axes((x / width, _EDGE / height, block.shape[1] / width, block_height / height))
        axes.set_axis_off()
        axes.imshow(block, interpolation="nearest", aspect="auto")
        x += block.shape[1] + _BETWEEN
    step = (block_height + _GAP) / classes
    for label, name in enumerate(names):
        write(name, left - _EDGE, top + step * label + (step - _GAP) / 2, 11, "right")
    return figure


def _width(text: str, size: int) -> int:
    """How many px a text takes."""
    return math.ceil(Figure(dpi=DPI).text(0, 0, text, fontsize=size, parse_math=False).get_window_extent().width)


def _block(images: ImageSet, classes: int, most: int) -> np.ndarray:
    """The images of the classes as one picture, uint8 (height,width,3), a row of at most `most` for each; gaps are white."""
    rows = [images[(images.labels == label).nonzero().squeeze(1)[:most]] for label in range(classes)]
    columns = max(len(row) for row in rows)
    tiles = [[_tile(image) for image in row] for row in rows]
    step = next(tile.shape[0] for row in tiles for tile in row) + _GAP
    block = np.full((classes * step - _GAP, columns * step - _GAP, 3), 255, np.uint8)
    for i, row in enumerate(tiles):
        for j, tile in enumerate(row):
            block[i * step : i * step + step - _GAP, j * step : j * step + step - _GAP] = tile
    return block


def _tile(image_CSS: Tensor) -> np.ndarray:
    """An image of one or three channels at a size that can be seen: uint8 (S',S',3)."""
    pixels = image_CSS.expand(3, -1, -1).movedim(0, 2).numpy()
    size = len(pixels)
    if size > _LARGEST:
        return np.asarray(Image.fromarray(pixels).resize((_LARGEST, _LARGEST), Image.Resampling.LANCZOS))
    factor = max(1, round(_SMALLEST / size))
    return pixels.repeat(factor, 0).repeat(factor, 1)
