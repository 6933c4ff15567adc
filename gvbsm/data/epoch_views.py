"""The views of an epoch, drawn alike by relabel and by evaluate's hard-label baseline."""

from __future__ import annotations

from typing import Any

import torch

from gvbsm.keys import derive_seed
from gvbsm.method.views import Views, ViewSettings, draw_views


def epoch_views(settings: dict[str, Any], epoch: int, images: int, size: int) -> Views:
    """The views of one epoch, the same whichever stage draws them; `settings` are relabel's."""
    how = ViewSettings(
        batch_size=settings["batch_size"],
        scale=tuple(settings["scale"]),
        ratio=tuple(settings["ratio"]),
        flip=settings["flip"],
        mix=settings["mix"],
        mix_alpha=settings["mix_alpha"],
    )
    generator = torch.Generator().manual_seed(derive_seed(settings["seed"], "views", epoch))
    return draw_views(images, size, how, generator)
