"""Random crops and mirroring of batches."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from gvbsm.config.teachers import Augment
from gvbsm.data.augmentation import crop_and_mirror

ALL = slice(None)
EACH = [Augment(pad=2, flip=True), Augment(pad=3, flip=False), Augment(resized_crop=[0.5, 1.0], flip=True), Augment(flip=True)]


def bytes_of(count: int, size: int = 8, channels: int = 3) -> torch.Tensor:
    return torch.randint(1, 256, (count, channels, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("settings", EACH)
def test_every_image_has_a_draw_of_its_own_which_the_seed_decides(settings):
    x = bytes_of(1).expand(40, -1, -1, -1).contiguous()
    first = crop_and_mirror(x, settings, 1, 40, ALL)
    assert first.shape == x.shape
    assert len({image.numpy().tobytes() for image in first}) >= (2 if settings == EACH[-1] else 5)
    assert torch.equal(first, crop_and_mirror(x, settings, 1, 40, ALL))
    assert not torch.equal(first, crop_and_mirror(x, settings, 2, 40, ALL))


@pytest.mark.parametrize("settings", EACH)
@pytest.mark.parametrize("part", [slice(0, 4), slice(4, 11), slice(11, 11)])
def test_a_part_of_a_batch_is_that_part_of_the_whole(settings, part):
    x = bytes_of(11)
    assert torch.equal(crop_and_mirror(x[part], settings, 5, 11, part), crop_and_mirror(x, settings, 5, 11, ALL)[part])


@pytest.mark.parametrize("pad", [1, 3])
@pytest.mark.parametrize("flip", [True, False])
def test_padded_crops_are_all_shifts_within_a_black_border(pad, flip):
    count, size = 200 * pad**2, 4
    x = bytes_of(count, size)
    y = crop_and_mirror(x, Augment(pad=pad, flip=flip), 0, count, ALL)
    assert y.dtype == torch.uint8
    seen = []
    shifts = list(itertools.product([False, True] if flip else [False], range(2 * pad + 1), range(2 * pad + 1)))
    for image, cut in zip(x, y, strict=True):
        padded = {mirrored: F.pad(image.flip(2) if mirrored else image, (pad,) * 4) for mirrored in (False, True)}
        fits = [(m, r, c) for m, r, c in shifts if torch.equal(padded[m][:, r : r + size, c : c + size], cut)]
        assert fits
        seen.extend(fits if len(fits) == 1 else [])  # several fit where nothing but the border is left
    assert {(m, r, c) for m, r, c in shifts if max(abs(r - pad), abs(c - pad)) < size} == set(seen)


def test_half_of_the_images_are_mirrored_and_nothing_else():
    x = bytes_of(2000, 3, 1)
    y = crop_and_mirror(x, Augment(flip=True), 0, 2000, ALL)
    mirrored, same = (y == x.flip(3)).flatten(1).all(1), (y == x).flatten(1).all(1)
    assert bool((mirrored | same).all()) and 900 < int(mirrored.sum()) < 1100


def test_resized_crops_keep_what_is_linear():
    """A crop of a ramp, bilinearly resized, is a ramp between values of the first."""
    x = torch.arange(32, dtype=torch.uint8).mul(8).expand(50, 1, 32, 32)
    y = crop_and_mirror(x, Augment(resized_crop=[0.25, 0.25], flip=False), 0, 50, ALL)
    assert y.dtype == torch.float32 and y.amin() >= 0 and y.amax() <= 248
    steps = y[:, :, :, 2:-1] - y[:, :, :, 1:-2]
    widths = steps.mean((1, 2, 3)) / 8 * 32  # px: of a quarter of the area, with sides 3 : 4 to 4 : 3
    assert bool(((widths > 13) & (widths < 19)).all()) and widths.std() > 0.5
    assert float((steps - steps.mean(3, keepdim=True))[:, :, :, 2:-2].abs().max()) < 1e-3


def test_no_augmentation_is_the_image():
    x = bytes_of(2)
    assert crop_and_mirror(x, Augment(pad=0, flip=False), 0, 2, ALL) is x
