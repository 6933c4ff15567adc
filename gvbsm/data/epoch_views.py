"""The views of an epoch, the same in relabel, in evaluate and for every reader of soft labels (docs/soft-labels.md)."""

from __future__ import annotations

from gvbsm.config.labels import ViewsOfImages
from gvbsm.method.views import Views, ViewSettings, draw_views
from gvbsm.store.keys import derive_seed

FORMAT = 1  # of soft labels


def epoch_views(drawn: ViewsOfImages, epoch: int, images: int, size: int) -> Views:
    """The views of one epoch of `images` images of `size` px."""
    settings = ViewSettings(
        batch_size=drawn.batch_size,
        scale=(drawn.scale[0], drawn.scale[1]),
        ratio=(drawn.ratio[0], drawn.ratio[1]),
        flip=drawn.flip,
        mix=drawn.mix,
        mix_alpha=drawn.mix_alpha,
        cells=drawn.cells or 1,
        operations=drawn.rand_augment.operations if drawn.rand_augment else 0,
    )
    return draw_views(images, size, settings, derive_seed(drawn.seed, "views", epoch))
