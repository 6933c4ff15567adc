"""Image sets: the images are in order, whatever shards hold them, and take no more memory than they may."""

from types import SimpleNamespace

import pytest
import torch

from gvbsm.data import image_set, splits
from gvbsm.data.image_set import ImageSet, load_image_set
from gvbsm.method.views import ViewSettings, draw_views, render

SETTINGS = ViewSettings(4, (0.08, 1.0), (3 / 4, 4 / 3), True, "cutmix", 1.0)


@pytest.fixture
def shards():
    """Two images of each of three classes in three shards, out of order; every image holds 10 x class + number."""
    held = {"a": [(2, 0), (2, 1)], "b": [(0, 1), (1, 0), (1, 1)], "c": [(0, 0)]}
    return {
        name: {
            "images": torch.stack([torch.full((1, 4, 4), 10 * label + number, dtype=torch.uint8) for label, number in pairs]),
            "labels": torch.tensor([label for label, _ in pairs]),
            "numbers": torch.tensor([number for _, number in pairs]),
        }
        for name, pairs in held.items()
    }


def load(shards) -> ImageSet:
    reader = SimpleNamespace(tensors=lambda name: (shards[name], {}))
    return load_image_set(reader, list(shards))


def test_images_come_by_class_and_number(shards):
    images = load(shards)
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2] and images.shape == (6, 1, 4, 4)
    assert images[torch.arange(6)][:, 0, 0, 0].tolist() == [0, 1, 10, 11, 20, 21]
    assert images[torch.tensor([5, 0, 5])][:, 0, 0, 0].tolist() == [21, 0, 21]
    assert images[torch.tensor([], dtype=torch.int64)].shape == (0, 1, 4, 4)


def test_images_too_many_to_be_resident_are_read_when_needed(shards, monkeypatch):
    images = load(shards)
    cpu = torch.device("cpu")
    all_at_once = images.resident(cpu)
    assert isinstance(all_at_once, torch.Tensor) and torch.equal(all_at_once, images[torch.arange(6)])
    monkeypatch.setattr(image_set, "_READ_BATCH", 4)
    assert torch.equal(images.resident(cpu), all_at_once)
    monkeypatch.setattr(splits, "_RESIDENT", 50)
    assert images.resident(cpu) is images
    views = draw_views(6, 4, SETTINGS, 0)
    assert torch.equal(render(images, views, torch.arange(6)), render(all_at_once, views, torch.arange(6)))


def test_random_images_too_many_for_memory_lie_in_a_nameless_file(monkeypatch, tmp_path):
    monkeypatch.setattr(splits, "_RESIDENT", 50)
    batches = [torch.randint(256, (count, 3, 4, 4), dtype=torch.uint8) for count in (3, 3, 1)]
    together = image_set._joined(iter(batches), 7, tmp_path / "checks")
    assert torch.equal(together, torch.cat(batches))
    assert list((tmp_path / "checks").iterdir()) == []


@pytest.mark.parametrize(("size", "there"), [(0, True), (2**34, True), (2**34 + 1, False)])
def test_images_stay_on_a_gpu_if_they_take_a_quarter_of_its_free_memory(size, there, monkeypatch):
    """As much as it has: more than on the CPU on a large one, less on a small or a busy one."""
    asked: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (asked.append(device), (2**36, 2**37))[1])
    assert splits.fits(size, torch.device("cuda:1")) is there and asked == [torch.device("cuda:1")]
    assert splits.fits(2**32, torch.device("cpu")) and not splits.fits(2**32 + 1, torch.device("cpu"))
