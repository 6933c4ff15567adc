"""A new network by its name."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn

from gvbsm.backbones import BACKBONES, LIBRARIES


def build(name: str, *, classes: int, image_size: int, channels: int = 3, **options: Any) -> nn.Module:
    """A new network that maps float images (B, channels, image_size, image_size) to logits (B, classes).

    Args:
        name: a key of `BACKBONES`, or `<library>:<name of its model>` with a library of `LIBRARIES`.
        options: keyword-only parameters of that network's builder.

    Raises:
        ValueError: for an unknown name, or an option whose value the builder cannot use.
        TypeError: for an option the builder does not have.
    """
    library, colon, model = name.partition(":")
    if colon and library in LIBRARIES:
        builder, options = LIBRARIES[library], options | {"model": model}
    elif name in BACKBONES:
        builder = BACKBONES[name]
    else:
        raise ValueError(f"unknown network {name!r}; choose from {', '.join(sorted(BACKBONES))}")
    module, _, function = builder.partition(":")
    return getattr(import_module(module), function)(classes=classes, image_size=image_size, channels=channels, **options)
