"""Given weights that are not for the data set stop the run where they are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gvbsm.config.shapes import NetworkShape
from gvbsm.errors import UserError
from gvbsm.pipeline.graph import plan
from gvbsm.store.files import load_tensors
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt
from gvbsm.training.networks import Accuracy, build
from gvbsm.training.pretrained import check_result

CLASSES = [*sorted(map(str, range(12)))]  # 0, 1, 10, 11, 2, ...: as folders are read
CPU = torch.device("cpu")


def check(guess_N: Tensor, labels_N: Tensor, classes: list[str] = CLASSES, trusted: bool = False) -> None:
    top1 = 100 * float((guess_N == labels_N).float().mean())
    check_result("mine.pth", Accuracy(top1, top1, [], guess_N), labels_N, classes, trusted)


def test_folders_by_number_read_as_text_are_another_order():
    labels_N = torch.arange(12).repeat_interleave(20)
    by_number = torch.tensor([int(name) for name in CLASSES])  # of each label, what a network trained by number says
    with pytest.raises(UserError, match=r"right on 16\.7 % .* chance 8\.3 % \(.* 100\.0 %: output 2 is '2', output 3 is '3'"):
        check(by_number[labels_N], labels_N)
    check(by_number[labels_N], labels_N, trusted=True)
    check(labels_N, labels_N)


def test_two_classes_that_are_exchanged_are_another_order():
    labels_N = torch.arange(12).repeat_interleave(20)
    with pytest.raises(UserError, match=r"output 4 is '3', output 5 is '2', \.\.\.|output 4 is '3', output 5"):
        check(torch.where(labels_N == 4, 5, torch.where(labels_N == 5, 4, labels_N)), labels_N)


@pytest.mark.parametrize("guess", [0, 7])
def test_one_class_for_all_images_is_chance(guess):
    labels_N = torch.arange(12).repeat_interleave(3)  # too few to know of an order
    with pytest.raises(UserError, match=r"right on 8\.3 % of the test images, by chance 8\.3 %; bring"):
        check(torch.full_like(labels_N, guess), labels_N)


@pytest.mark.parametrize(("classes", "per_class"), [(2, 50), (10, 10), (100, 10), (1000, 50)])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_weak_teachers_with_confusions_of_similar_classes_pass(classes, per_class, share):
    generator = torch.Generator().manual_seed(0)
    labels_N = torch.arange(classes).repeat_interleave(per_class)
    similar = torch.stack([torch.randint(classes, (3,), generator=generator) for _ in range(classes)])
    right_N = torch.rand(len(labels_N), generator=generator) < (share if classes > 2 else (1 + share) / 2)
    other_N = similar[labels_N, torch.randint(3, labels_N.shape, generator=generator)]
    check(torch.where(right_N, labels_N, other_N), labels_N, list(map(str, range(classes))))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused_even_if_trusted(value):
    labels_N = torch.arange(12).repeat_interleave(2)
    logits_NK = F.one_hot(labels_N, 12).float()
    logits_NK[3, 5] = value

    class Given(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return logits_NK[x.flatten(1)[:, 0].long()]

    from gvbsm.data.splits import PackedImages
    from gvbsm.training.networks import accuracy

    images = torch.arange(24, dtype=torch.uint8).view(24, 1, 1, 1)
    result = accuracy(Given(1, 1), PackedImages(images, labels_N, None, CPU), lambda x: x, "float32")
    assert result.guess_N.tolist() == [-1 if i == 3 else int(label) for i, label in enumerate(labels_N)]
    assert result.top1 == pytest.approx(100 * 23 / 24) and result.by_class[1] == 50
    with pytest.raises(UserError, match="expected finite logits, got NaN or infinite ones for 1 of 24 test images"):
        check_result("mine.pth", result, labels_N, CLASSES, trusted=True)


def test_a_run_stops_at_such_weights_unless_they_are_trusted(published_run, edit_row, make_artifact):
    shape = NetworkShape(name="convnet", options={"width": 4}, classes=10, image_size=8, channels=1)
    model = build(shape, 3, CPU)
    Path("data").mkdir()
    torch.save(model.state_dict(), "data/fresh.pth")
    given = {"name": "convnet", "options": {"width": 4}, "weights": "fresh.pth"}

    def teacher():
        return next(artifact for artifact in plan("tiny", 4) if artifact.stage == "squeeze")

    edit_row({"backbones": [given]})
    with pytest.raises(UserError, match=r"weights fresh\.pth: expected a network of the classes in this order: '0', '1'"):
        make_artifact(teacher())
    edit_row({"backbones": [given | {"trust_weights": True}]})
    assert 0 <= read_receipt(make_artifact(teacher()))["summary"]["top1"] < 30
    trained = next(artifact for artifact in published_run if artifact.stage == "squeeze")
    tensors, _ = load_tensors(STORE / trained.path)
    tensors[list(tensors)[-1]] = tensors[list(tensors)[-1]] * float("nan")
    torch.save(tensors, "data/fresh.pth")
    with pytest.raises(UserError, match=r"weights fresh\.pth: expected finite logits, got NaN or infinite ones for 360 of 360"):
        make_artifact(teacher())
