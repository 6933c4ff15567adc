"""RandAugment of views: torchvision's operations, each view by itself."""

import dataclasses

import pytest
import torch
from torchvision.transforms.v2 import functional as T

from gvbsm.data.rand_augment import RandAugment
from gvbsm.method.views import OPERATIONS, ViewSettings, draw_views, render

LEVELS = torch.randint(256, (2 * OPERATIONS, 3, 32, 32), generator=torch.Generator().manual_seed(0)).float()
EACH_ONCE = torch.arange(2 * OPERATIONS, dtype=torch.uint8).unsqueeze(1)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_does_not_depend_on_the_others(channels):
    levels = LEVELS[:, :channels]
    together = RandAugment(9)(levels, EACH_ONCE)
    for number in range(2 * OPERATIONS):
        alone = RandAugment(9)(levels[number : number + 1], EACH_ONCE[number : number + 1])
        assert torch.equal(alone[0], together[number])
    assert together.min() >= 0 and together.max() <= 255 and torch.equal(together, together.round())


def test_operations_are_what_their_numbers_say():
    done = RandAugment(30)(LEVELS, EACH_ONCE)
    bytes_ = LEVELS.byte()
    assert torch.equal(done[0], LEVELS[0])
    assert torch.equal(done[12], T.adjust_brightness(bytes_[12], 1.9).float())
    assert torch.equal(done[13], T.adjust_brightness(bytes_[13], 0.1).float())
    assert torch.equal(done[26], T.equalize(bytes_[26]).float())
    moved = round(32 * 150 / 331)
    assert torch.equal(done[6, :, :, moved:], LEVELS[6, :, :, :-moved]) and not done[6, :, :, :moved].any()
    assert torch.equal(done[9, :, :-moved], LEVELS[9, :, moved:])


def test_without_strength_little_happens():
    done = RandAugment(0)(LEVELS, EACH_ONCE)
    still = [number for number in range(2 * OPERATIONS) if number // 2 < 11]  # the rest stretch or invert whatever the strength
    assert torch.equal(done[still], LEVELS[still])


def test_operations_are_done_one_after_another_before_mixing():
    images = LEVELS[:6].byte()
    settings = ViewSettings(6, (1.0, 1.0), (1.0, 1.0), False, "cutmix", 1.0, operations=2)
    views = draw_views(6, 32, settings, 0)
    views = dataclasses.replace(views, operation_VR=torch.tensor([[12, 22]] * 6, dtype=torch.uint8))
    both = T.solarize(T.adjust_brightness(images, 1.27), 255 * 0.7)
    expected = render(both, dataclasses.replace(views, operation_VR=None), torch.arange(6))
    assert torch.equal(render(images, views, torch.arange(6), augment=RandAugment(9)), expected)
