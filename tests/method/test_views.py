"""Views: as PIL makes them, replayed exactly, mixed and labelled as docs/views.md and docs/method.md say."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from gvbsm.data.rand_augment import RandAugment
from gvbsm.method.memory import RENDERED
from gvbsm.method.views import Views, ViewSettings, digest, draw_crops, draw_views, grouped, mixed_hard_labels, render

SETTINGS = ViewSettings(4, (0.08, 1.0), (3 / 4, 4 / 3), True, "cutmix", 1.0)


def pictures(count: int = 11, size: int = 32) -> torch.Tensor:
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def plain(views: Views) -> Views:
    """The same views without mixing."""
    return dataclasses.replace(views, partner_V=torch.arange(len(views)).int(), box_V4=torch.zeros_like(views.box_V4))


def test_crop_and_resize_is_pils_within_one_level():
    images = pictures()
    views = plain(draw_views(len(images), 32, SETTINGS, 3))
    got = render(images, views, torch.arange(len(views))) * 255
    for position in range(len(views)):
        top, left, height, width = views.crop_V4[position].tolist()
        image = Image.fromarray(images[int(views.image_V[position])].permute(1, 2, 0).numpy())
        cut = image.crop((left, top, left + width, top + height))  # not resize(box=...), which reads past the border
        crop = cut.resize((32, 32), Image.Resampling.BILINEAR)
        expected = np.asarray(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if views.flip_V[position] else crop)
        difference = (got[position] - torch.from_numpy(expected.copy()).permute(2, 0, 1)).abs().max()
        assert difference <= 1.0


def test_a_view_of_a_whole_image_is_the_image():
    images = pictures()
    views = plain(draw_views(len(images), 32, dataclasses.replace(SETTINGS, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False), 0))
    torch.testing.assert_close(render(images, views, torch.arange(11)), images[views.image_V.long()].float() / 255)


@pytest.mark.parametrize("mix", ["cutmix", "mixup", "none"])
def test_views_do_not_depend_on_the_batch_they_are_rendered_in(mix):
    images = pictures(11, 224)  # large enough to be made in several parts
    views = draw_views(len(images), 224, dataclasses.replace(SETTINGS, mix=mix), 0)
    expected = render(images, views, torch.arange(11))
    for size in (1, 3, 5):
        parts = [render(images, views, positions) for positions in torch.arange(11).split(size)]
        assert torch.equal(torch.cat(parts), expected)


@pytest.mark.parametrize("budget", [1, 3 * 32**2 * 4, 2**25])
def test_views_do_not_depend_on_the_budget_of_memory(budget, monkeypatch):
    """Which is a device's: a GPU renders more views together than a CPU."""
    images = pictures(11, 32)
    settings = dataclasses.replace(SETTINGS, mix="cutmix", operations=2)
    views, augment = draw_views(len(images), 32, settings, 0), RandAugment(9)
    expected = render(images, views, torch.arange(11), augment=augment)
    monkeypatch.setitem(RENDERED, "cpu", budget)
    calls: list[int] = []

    def counted(levels: torch.Tensor, operations: torch.Tensor) -> torch.Tensor:
        calls.append(len(levels))
        return augment(levels, operations)

    assert torch.equal(render(images, views, torch.arange(11), augment=counted), expected)
    assert max(calls) == {1: 1, 3 * 32**2 * 4: 4, 2**25: 11}[budget]


def test_a_gpu_renders_more_together_than_a_cpu():
    batches = torch.arange(1000).split(25)
    assert len(list(grouped(batches, 3 * 224**2, torch.device("cpu")))) == 40
    assert len(list(grouped(batches, 3 * 224**2, torch.device("cuda")))) == 5


@pytest.mark.parametrize(("size", "together"), [(32, [13, 7]), (64, [3, 3, 3, 3, 3, 3, 2]), (224, [1] * 20)])
def test_batches_are_rendered_in_groups_of_a_million_values(size, together):
    batches = torch.arange(500).split(25)
    groups = list(grouped(batches, 3 * size**2, torch.device("cpu")))
    assert [len(group) for group in groups] == together
    assert torch.equal(torch.cat([batch for group in groups for batch in group]), torch.arange(500))


def test_no_batches_are_no_groups():
    assert list(grouped([], 3, torch.device("cpu"))) == []


def test_views_are_the_same_everywhere():
    """Written down once: other versions of Python and torch, and other machines, must draw these."""
    views = draw_views(6, 32, SETTINGS, 12345)
    assert digest(views) == "74cc12ad7141c1d1"
    assert views.image_V.tolist() == [1, 3, 0, 4, 2, 5] and views.crop_V4[0].tolist() == [6, 7, 22, 18]


def test_the_same_seed_draws_the_same_views_and_every_image_once():
    first, second = (draw_views(11, 32, SETTINGS, 5) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.tensors().values(), second.tensors().values(), strict=True))
    assert sorted(first.image_V.tolist()) == list(range(11))
    assert not torch.equal(first.image_V, draw_views(11, 32, SETTINGS, 6).image_V)


def test_crops_stay_inside_and_keep_the_area_asked_for():
    crops = draw_crops(5000, 32, (0.25, 0.5), (3 / 4, 4 / 3), 0)
    top, left, height, width = crops.T
    assert (top >= 0).all() and (left >= 0).all() and (top + height <= 32).all() and (left + width <= 32).all()
    share = height * width / 32**2
    assert share.min() > 0.23 and share.max() < 0.53
    assert abs(share.mean() - 0.375) < 0.005
    capped = draw_crops(10, 32, (4.0, 4.0), (1.0, 1.0), 0)
    assert capped.tolist() == [[0, 0, 32, 32]] * 10


def test_cutmix_pastes_the_partner_and_counts_its_share():
    images = torch.stack([torch.full((1, 8, 8), 20 * value, dtype=torch.uint8) for value in range(8)])
    settings = dataclasses.replace(SETTINGS, scale=(1.0, 1.0), ratio=(1.0, 1.0))
    views = draw_views(8, 8, settings, 2)
    x = (render(images, views, torch.arange(8)) * 255 / 20).round().long()
    seen_mixing = False
    for position in range(8):
        own, partner = (int(views.image_V[i]) for i in (position, int(views.partner_V[position])))
        top, left, bottom, right = views.box_V4[position].tolist()
        expected = torch.full((8, 8), own)
        expected[top:bottom, left:right] = partner
        assert torch.equal(x[position, 0], expected)
        assert views.keep_V[position].item() == pytest.approx((expected == own).float().mean().item())
        seen_mixing |= own != partner and bottom > top
    assert seen_mixing
    for batch in (slice(0, 4), slice(4, 8)):  # partners come from the same batch, one box for all of it
        assert sorted(views.partner_V[batch].tolist()) == list(range(batch.start, batch.stop))
        assert len(views.box_V4[batch].unique(dim=0)) == 1


def test_mixup_blends_and_can_be_left_out():
    images = pictures(8, 8)
    views = draw_views(8, 8, dataclasses.replace(SETTINGS, mix="mixup", mix_alpha=0.8), 0)
    positions = torch.arange(8)
    own = render(images, views, positions, mixed=False)
    keep = views.keep_V.view(-1, 1, 1, 1)
    torch.testing.assert_close(render(images, views, positions), keep * own + (1 - keep) * own[views.partner_V.long()])
    assert (views.keep_V < 1).any()


def test_hard_labels_unmixed_and_mixed():
    """Fault 3: published cross-entropy sees the un-mixed label of a mixed view; corrected, both by their share."""
    labels = torch.arange(8) % 3
    views = draw_views(8, 8, SETTINGS, 0)
    positions = torch.arange(8)
    published = mixed_hard_labels(labels, views, positions, 3, mixed=False)
    assert torch.equal(published.argmax(1), labels[views.image_V.long()])
    assert (published.max(1).values == 1).all()
    corrected = mixed_hard_labels(labels, views, positions, 3, mixed=True)
    torch.testing.assert_close(corrected.sum(1), torch.ones(8))
    partner = labels[views.image_V[views.partner_V.long()].long()]
    for i in range(8):
        expected = torch.zeros(3)
        expected[labels[int(views.image_V[i])]] += views.keep_V[i]
        expected[partner[i]] += 1 - views.keep_V[i]
        torch.testing.assert_close(corrected[i], expected)
    assert not torch.equal(published, corrected)


def test_views_of_cells_stay_within_one_cell_and_reach_all():
    settings = dataclasses.replace(SETTINGS, cells=4)
    crop_V4 = draw_views(2000, 32, settings, 0).crop_V4.long()
    first_V2, last_V2 = crop_V4[:, :2] // 8, (crop_V4[:, :2] + crop_V4[:, 2:] - 1) // 8
    assert torch.equal(first_V2, last_V2)
    assert len(first_V2.unique(dim=0)) == 16
    whole_cells = dataclasses.replace(settings, scale=(1.0, 1.0), ratio=(1.0, 1.0), mix="none", flip=False)
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3)
    for key in range(5):  # each cell has one level: nothing of its neighbours is read
        views = draw_views(1, 32, whole_cells, key)
        level = (views.crop_V4[0, 0] // 8 * 4 + views.crop_V4[0, 1] // 8) / 255
        torch.testing.assert_close(render(image, views, torch.arange(1)), level.float().expand(1, 1, 32, 32))


def test_operations_are_drawn_evenly_and_leave_the_rest_of_a_view_alone():
    settings = dataclasses.replace(SETTINGS, operations=2)
    views, without = draw_views(5000, 32, settings, 0), draw_views(5000, 32, SETTINGS, 0)
    counts = torch.bincount(views.operation_VR.flatten().long(), minlength=28)
    assert len(counts) == 28 and counts.min() > 250
    assert all(torch.equal(views.tensors()[name], value) for name, value in without.tensors().items())
    assert digest(views) != digest(without)
