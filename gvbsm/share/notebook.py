"""What a notebook shows of a data set: a line of what it holds, and a small grid of its images, a row per class."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from html import escape

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_MOST_CLASSES, _MOST_IMAGES = 10, 10
_MOST_PIXELS = 96  # side of an image in the file: larger ones are reduced, so that a notebook stays small
_SHOWN_PIXELS = 40  # side of an image on the page: smaller ones are enlarged


def as_html(text: str, images: Callable[[Tensor], Tensor], labels: Tensor, class_names: list[str]) -> str:
    """HTML of a data set.

    Args:
        text: what it holds, in words.
        images: gives the uint8 images (B,C,S,S) at an index (B,).
        labels: of all images (N,).
        class_names: by label.
    """
    present = labels.unique()
    rows = [_row(class_names[label], images((labels == label).nonzero().squeeze(1)[:_MOST_IMAGES])) for label in _some(present)]
    counts = labels.bincount()
    parts = []
    if int(counts.max()) > _MOST_IMAGES:
        parts.append(f"the first {_MOST_IMAGES} images of a class")
    if len(present) > _MOST_CLASSES:
        parts.append(f"{_MOST_CLASSES} of {len(present)} classes")
    note = f"<div><i>Shown: {', '.join(parts)}.</i></div>" if parts else ""
    return f"<div>{escape(text).replace(chr(10), '<br>')}</div><table>{''.join(rows)}</table>{note}"


def _some(present: Tensor) -> list[int]:
    """At most ten labels, evenly spread."""
    if len(present) <= _MOST_CLASSES:
        return present.tolist()
    return present[torch.linspace(0, len(present) - 1, _MOST_CLASSES).round().long()].tolist()


def _row(name: str, images_BCHW: Tensor) -> str:
    png = base64.b64encode(_png(images_BCHW)).decode()
    width, name = _SHOWN_PIXELS * len(images_BCHW), escape(name)
    style = f"width:{width}px;max-width:none;image-rendering:pixelated"
    return f'<tr><th>{name}</th><td><img alt="images of {name}" style="{style}" src="data:image/png;base64,{png}"></td></tr>'


def _png(images_BCHW: Tensor) -> bytes:
    """The images beside each other, with white between them."""
    side = min(images_BCHW.shape[-1], _MOST_PIXELS)
    channels = slice(3) if images_BCHW.shape[1] >= 3 else slice(1)
    pixels_BHWC = images_BCHW[:, channels].movedim(1, -1).numpy()
    pictures = [
        Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in np.ascontiguousarray(pixels_BHWC)
    ]
    step = side + max(1, side // 16)
    strip = Image.new(pictures[0].mode, (step * (len(pictures) - 1) + side, side), "white")
    for number, picture in enumerate(pictures):
        strip.paste(picture.resize((side, side)), (number * step, 0))
    buffer = io.BytesIO()
    strip.save(buffer, format="PNG")
    return buffer.getvalue()
