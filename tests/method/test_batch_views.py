"""The augmentation of recover: one crop, flip and roll for a batch, against torch's own operations."""

import math

import pytest
import torch
from torch.nn import functional as F

from gvbsm.method.batch_views import draw_positions, least_shares, view
from gvbsm.method.views import crop_and_resize

BLACK = torch.tensor([-2.0, -1.0, -3.0]).view(1, 3, 1, 1)
NONE = {"pad": None, "resized_crop": None, "flip": False, "roll": 0}


def drawn(count: int, size: int, **changes) -> torch.Tensor:
    return draw_positions(7, count, size, **(NONE | changes))


def test_padded_crops_are_shifts_with_a_black_border():
    x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    padded = F.pad(x - BLACK, (1, 1, 1, 1)) + BLACK
    shifts = {(r, c): padded[:, :, r : r + 5, c : c + 5] for r in range(3) for c in range(3)}
    seen = set()
    for positions in drawn(200, 5, pad=1):
        got = view(x, positions, BLACK)
        matching = [shift for shift, expected in shifts.items() if torch.allclose(got, expected, atol=1e-6)]
        assert len(matching) == 1
        seen |= set(matching)
    assert seen == set(shifts)


def test_rolls_reach_every_shift_up_to_the_setting_and_wrap_around():
    x = torch.arange(16.0).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    seen = set()
    for positions in drawn(200, 4, roll=2):
        got = view(x, positions, BLACK)
        matching = [(r, c) for r in range(4) for c in range(4) if torch.allclose(got, x.roll((r, c), (2, 3)), atol=1e-5)]
        seen |= set(matching)
    assert seen == {(r, c) for r in range(3) for c in range(3)}


def test_flips_mirror_half_of_the_views():
    x = torch.randn(1, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    mirrored = 0
    for positions in drawn(400, 6, flip=True):
        got = view(x, positions, BLACK)
        is_mirrored = torch.allclose(got, x.flip(3), atol=1e-6)
        assert is_mirrored or torch.allclose(got, x, atol=1e-6)
        mirrored += is_mirrored
    assert 160 < mirrored < 240


def test_what_is_rolled_is_the_mirrored_crop():
    """The published order: crop, flip, roll. A roll moves the border of a padded crop into the image."""
    x = torch.ones(1, 3, 4, 4)
    for positions in drawn(100, 4, pad=1, flip=True, roll=3):
        rows = (view(x, positions, BLACK)[0, 0] != 1).sum(1)  # at most one row and one column are black
        assert (rows == 4).sum() <= 1 and sorted(rows.tolist())[0] <= 1


@pytest.mark.parametrize("size", [7, 32])
def test_resized_crops_are_those_of_the_views_of_students(size):
    x = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    got = drawn(20, size, resized_crop=(0.1, 1.0))
    sides = set()
    for positions in got:
        rows, columns = positions
        length = [int(torch.round((axis[1:] - axis[:-1]).max() * size)) for axis in (rows, columns)]
        sides.add(tuple(length))
        start = [int(axis[0].floor()) for axis in (rows, columns)]
        crop = torch.tensor([[*start, *length]]).expand(3, 4)
        expected = crop_and_resize(x, crop, torch.zeros(3, dtype=torch.bool))
        torch.testing.assert_close(view(x, positions, BLACK), expected, atol=1e-4, rtol=1e-4)
    assert len(sides) > 10


@pytest.mark.parametrize(("first", "last"), [(1.0, 0.08), (0.08, 0.08), (0.2, 0.9)])
def test_the_smallest_crop_goes_by_a_cosine_from_one_size_to_another(first, last):
    shares = least_shares(first, last, 400)
    for t in (0, 1, 100, 399):
        assert shares[t].item() == pytest.approx(last + (first - last) * (1 + math.cos(math.pi * t / 400)) / 2)
    sides = []
    for positions in drawn(400, 64, resized_crop=(shares, 1.0)):
        sides.append([64 * float((axis[1:] - axis[:-1]).max()) for axis in positions])
    kept = torch.tensor(sides).prod(1) / 64**2
    assert (kept >= shares.squeeze(1) - 0.03).all() and (kept <= 1.001).all()  # sides are whole pixels
    early, late = (float((kept[part] - shares[part, 0]).mean() / (1 - shares[part, 0]).mean().clamp_min(0.01)) for part in
                   (slice(150, 250), slice(300, 400)))  # fmt: skip
    assert 0.3 < early < 0.7 and 0.3 < late < 0.7, "uniform between the smallest and 1"


def test_constant_smallest_shares_draw_the_crops_of_one_setting():
    assert torch.equal(drawn(50, 32, resized_crop=(least_shares(0.3, 0.3, 50), 1.0)), drawn(50, 32, resized_crop=(0.3, 1.0)))


def test_the_gradient_is_the_transpose_and_the_layout_is_kept():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64).requires_grad_()
    positions = drawn(1, 8, pad=2, flip=True, roll=5)[0].double()
    assert torch.autograd.gradcheck(lambda x: view(x, positions, BLACK.double()), x)
    assert view(x, positions, BLACK.double()).is_contiguous(memory_format=torch.channels_last)


def test_nothing_to_draw_is_the_image():
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(view(x, drawn(1, 8)[0], BLACK), x)
