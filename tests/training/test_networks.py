"""Networks in eval mode pass large images in small batches, so that memory does not grow with the images' size."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from gvbsm.data import splits
from gvbsm.data.splits import FileImages, PackedImages
from gvbsm.method import memory
from gvbsm.method.ranks import Ranks
from gvbsm.training import networks
from gvbsm.training.networks import Accuracy, accuracy, features_of, logits_of

CPU = torch.device("cpu")


class Watched(nn.Module):
    """A small network that keeps the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(3, 4, 3, stride=8), nn.Linear(4, 10)
        self.sizes: list[int] = []
        self.eval().requires_grad_(False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        self.sizes.append(len(x_BCHW))
        return self.head(self.conv(x_BCHW).relu().mean((2, 3)))


def pictures(count: int, size: int) -> Tensor:
    return torch.randint(256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def measured(model: nn.Module, images: Tensor, labels: Tensor) -> Accuracy:
    return accuracy(model, PackedImages(images, labels, None, CPU), lambda x: x / 255, "float32")


@pytest.mark.parametrize(("size", "largest"), [(32, 500), (64, 125), (224, 10)])
def test_a_test_passes_as_many_values_at_any_size(size, largest):
    model = Watched()
    measured(model, pictures(1, size).expand(503, -1, -1, -1), torch.zeros(503, dtype=torch.int64))
    assert max(model.sizes) == largest and sum(model.sizes) == 503


def test_logits_features_and_accuracy_are_those_of_the_whole_batch(monkeypatch):
    images, labels = pictures(23, 16), torch.arange(23) % 10
    x = images / 255
    model = Watched()
    expected = logits_of([model], x, "float32"), *features_of(model, x, "float32"), measured(model, images, labels)
    assert set(model.sizes) == {23} and expected[3].top5 > 0
    monkeypatch.setitem(memory.PASSED, "cpu", 5 * 3 * 16**2)
    model.sizes.clear()
    got = logits_of([model], x, "float32"), *features_of(model, x, "float32"), measured(model, images, labels)
    assert model.sizes == 3 * [5, 5, 5, 5, 3]
    for ours, theirs in zip(got[:3], expected[:3], strict=True):
        torch.testing.assert_close(ours, theirs)
    assert got[3][:3] == expected[3][:3] and torch.equal(got[3].guess_N, expected[3].guess_N)


@pytest.mark.parametrize(("count", "processes"), [(23, 3), (2, 3)])
def test_each_image_is_tested_by_one_of_the_processes(count, processes, monkeypatch):
    images, labels, model = pictures(count, 16), torch.arange(count) % 10, Watched()
    expected, summed = measured(model, images, labels), [torch.zeros(count, dtype=torch.int64) for _ in range(2)]

    class Summing(Ranks):
        def add(self, tensors):
            for tensor, whole in zip(tensors, summed, strict=True):
                tensor.copy_(whole.add_(tensor))

    for rank in range(processes):
        monkeypatch.setattr(networks, "ranks", lambda rank=rank: Summing(rank, processes))
        got = measured(model, images, labels)
    assert sum(model.sizes) == 2 * count and got[:3] == expected[:3] and torch.equal(got.guess_N, expected.guess_N)


def test_images_are_read_together_as_they_pass_on_a_gpu_where_nothing_is_decoded(monkeypatch):
    monkeypatch.setattr(splits, "fits", lambda size, device: False)  # so that this needs no GPU
    labels, cuda = torch.zeros(7, dtype=torch.int64), torch.device("cuda")
    on_cpu, small, large = (
        PackedImages(pictures(7, size), labels, None, device) for size, device in ((32, CPU), (32, cuda), (224, cuda))
    )
    assert (on_cpu.at_once, small.at_once, large.at_once) == (500, 2**24 // (3 * 32**2), 2**24 // (3 * 224**2))
    assert FileImages(None, labels, None, cuda).at_once == 500


def test_features_of_a_network_without_a_linear_layer_are_its_logits(monkeypatch):
    monkeypatch.setitem(memory.PASSED, "cpu", 2 * 3 * 16**2)
    model = nn.Sequential(nn.Conv2d(3, 10, 16), nn.Flatten()).eval()
    logits, features = features_of(model, pictures(5, 16) / 255, "float32")
    assert logits.shape == (5, 10) and torch.equal(logits, features)


def test_an_image_larger_than_the_budget_passes_alone():
    assert memory.images_at_once(3 * 4096**2, CPU, memory.PASSED) == 1
    assert [len(part) for part in memory.in_parts(torch.empty(0, 3, 8, 8), CPU)] == [0]
