"""A picture of an image set, one row per class."""

from __future__ import annotations

import io

import matplotlib
import numpy as np
import torch
from torch import Tensor

from gvbsm.data.image_set import ImageSet

_MOST_CLASSES, _MOST_IMAGES = 20, 10


def draw_grid(images: ImageSet, class_names: list[str], title: str) -> bytes:
    """PNG of an image set by class: at most 20 classes and 10 images of each, which the title then says."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    classes = min(len(class_names), _MOST_CLASSES)
    numbers = [(images.labels == label).nonzero().squeeze(1) for label in range(classes)]
    rows = [images[index[:_MOST_IMAGES]] for index in numbers]
    columns = max(len(row) for row in rows)
    if classes < len(class_names) or any(len(index) > _MOST_IMAGES for index in numbers):
        title += f"\n(the first {columns} images of the first {classes} classes)"
    cell = min(max(images.shape[-1] / 160, 0.7), 1.4)  # inches an image takes: more for one that has more to show
    names = 0.3 + 0.11 * max(map(len, class_names[:classes]))  # inches for the class names
    rest = max(0.1, 0.11 * max(map(len, title.splitlines())) - cell * columns - names)  # right of the images, for the title
    width, height = cell * columns + names + rest, cell * classes + 0.7
    figure, axes = plt.subplots(classes, columns, figsize=(width, height), squeeze=False)
    for label, row in enumerate(rows):
        for column, axis in enumerate(axes[label]):
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_frame_on(False)
            if column < len(row):
                axis.imshow(_for_display(row[column]), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes[label][0].set_ylabel(class_names[label], rotation=0, ha="right", va="center", fontsize=11, parse_math=False)
    figure.suptitle(title, fontsize=12, y=1 - 0.1 / height, va="top", parse_math=False)
    # Sides and gaps in inches, so that neither title nor labels meet the images however many rows there are.
    figure.subplots_adjust(
        left=names / width, right=1 - rest / width, bottom=0.1 / height, top=1 - 0.6 / height, wspace=0.08, hspace=0.08
    )
    buffer = io.BytesIO()
    # The date and version that matplotlib writes by default would make equal pictures differ.
    figure.savefig(buffer, format="png", dpi=100, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def _for_display(image_CHW: Tensor) -> np.ndarray:
    return (image_CHW[0] if len(image_CHW) == 1 else torch.movedim(image_CHW, 0, 2)).numpy()
