"""The augmentation of squeeze and statistics: a random crop and mirroring, for a whole batch at once."""

from __future__ import annotations

from torch import Tensor

from gvbsm.config.teachers import Augment
from gvbsm.method.crops import RATIO, crop_and_resize, cut, draw_crops
from gvbsm.method.draws import derive, uniform, up_to
from gvbsm.method.transfer import send

_FLIP, _TOP, _LEFT, _CROP = range(4)  # the purposes of random numbers; each has its own key


def crop_and_mirror(bytes_PCSS: Tensor, settings: Augment, seed: int, batch: int, part: slice) -> Tensor:
    """Every image of a part of a batch, cropped and mirrored: levels 0..255, float32 if crops are resized, else uint8.

    `batch`: the number of images of the whole batch, of which the P images are those in `part`. One draw for each image, from
    this seed alone, so the values depend neither on the part nor on the device.
    """
    size, device = bytes_PCSS.shape[-1], bytes_PCSS.device

    def drawn(values: Tensor) -> Tensor:
        return send(values[part], device)

    mirrored_P = drawn(uniform(derive(seed, _FLIP), batch) < (0.5 if settings.flip else 0))
    if settings.resized_crop:
        least, most = settings.resized_crop
        crop_P4 = drawn(draw_crops(batch, size, (least, most), RATIO, derive(seed, _CROP)))
        return crop_and_resize(bytes_PCSS.float(), crop_P4, mirrored_P)
    if not settings.pad and not settings.flip:
        return bytes_PCSS
    pad = settings.pad or 0
    top_P, left_P = (drawn(up_to(2 * pad, derive(seed, side), batch)) for side in (_TOP, _LEFT))
    return cut(bytes_PCSS, pad, top_P, left_P, mirrored_P)
