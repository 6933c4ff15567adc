"""Parts that the specs of several stages share: shapes of networks, forms of images, and selections of images and views."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gvbsm.config.bounds import Count, Epochs, Option, PerChannel
from gvbsm.config.labels import ViewsOfImages
from gvbsm.config.sources import Seed
from gvbsm.store.spec import Strict

Batch = Annotated[list[Annotated[list[int], Field(min_length=3, max_length=3)]], Field(min_length=1)]
"""Images that are optimised together: for every class [label, first image, end), the images counted from 0."""

Span = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]
"""A range of epochs: [first, end), counted from 0."""


class NetworkShape(Strict):
    """A network by name, and the shapes it maps."""

    name: str
    options: dict[str, Option]
    classes: Count
    image_size: Count  # px
    channels: Count


class PixelForm(Strict):
    """Size and normalisation of images."""

    image_size: Count  # px
    mean: PerChannel
    std: PerChannel


class RandomImages(Strict):
    """Random real images, drawn with a seed."""

    ipc: Count
    seed: Seed


class LabelledViews(ViewsOfImages):
    """The views of a training that reads no stored labels."""

    epochs: Epochs
