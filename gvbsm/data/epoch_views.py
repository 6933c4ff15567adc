"""The views of an epoch, drawn alike by relabel, by evaluate, and by whoever reads soft labels (docs/soft-labels.md)."""

from __future__ import annotations

from typing import Any

from gvbsm.keys import derive_seed
from gvbsm.method.views import Views, ViewSettings, draw_views

FORMAT = 1  # of soft labels
VIEW_SETTINGS = ("batch_size", "scale", "ratio", "cells", "flip", "rand_augment", "mix", "mix_alpha", "seed")


def epoch_views(settings: dict[str, Any], epoch: int, images: int, size: int) -> Views:
    """The views of one epoch, the same whoever draws them; `settings` are relabel's."""
    augment = settings.get("rand_augment")
    how = ViewSettings(
        batch_size=settings["batch_size"],
        scale=tuple(settings["scale"]),
        ratio=tuple(settings["ratio"]),
        flip=settings["flip"],
        mix=settings["mix"],
        mix_alpha=settings["mix_alpha"],
        cells=settings.get("cells") or 1,
        operations=augment["operations"] if augment else 0,
    )
    return draw_views(images, size, how, derive_seed(settings["seed"], "views", epoch))
