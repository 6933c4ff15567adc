"""Published soft labels: the size they were made at, and whether they agree with the images."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from gvbsm.data.fkd import PublishedLabels, one_view
from gvbsm.data.fkd_sizes import Evidence
from gvbsm.errors import UserError
from gvbsm.method.coding import Coding

SHARES = {  # what codes store beside a box: the share drawn, what is left outside of the box once it is cut, something else
    "drawn": lambda drawn, left, other: drawn,
    "left": lambda drawn, left, other: left,
    "unknown": lambda drawn, left, other: other,
}


class Batch(NamedTuple):
    crops: list[tuple[int, int, int, int]]
    box: list[int]
    share: float


def batches_of(size: int, count: int, share: str, seed: int, whole: bool = False) -> Iterator[Batch]:
    """The parameters of batches of four views, drawn as the published code draws them at `size` px."""
    torch.manual_seed(seed)
    draw, image = np.random.default_rng(seed), torch.zeros(1, size, size)
    for _ in range(count):
        crops = [
            (0, 0, size, size) if whole else RandomResizedCrop.get_params(image, [0.08, 1], [3 / 4, 4 / 3]) for _ in "1234"
        ]
        drawn, centre = draw.beta(1, 1), draw.integers(size, size=2)
        half = int(size * np.sqrt(1 - drawn)) // 2
        box = [*np.clip(centre - half, 0, size).tolist(), *np.clip(centre + half, 0, size).tolist()]
        left = 1 - (box[2] - box[0]) * (box[3] - box[1]) / size**2
        yield Batch(crops, box, SHARES[share](drawn, left, draw.random()))


def write_epoch(root: Path, size: int, count: int, share: str = "drawn", whole: bool = False) -> int:
    """An epoch of labels made at `size` px; return the number of images."""
    (root / "epoch_0").mkdir(parents=True)
    for number, batch in enumerate(batches_of(size, count, share, 0, whole)):
        index = torch.arange(number * 4, number * 4 + 4)
        views = [torch.tensor(batch.crops) / size, torch.zeros(4, dtype=torch.bool), torch.randperm(4)]
        saved = [*views, batch.share, batch.box, torch.randn(4, 2), index]
        torch.save(saved, root / "epoch_0" / f"batch_{number}.tar")
    return count * 4


def convert(root: Path, count: int, size: int) -> None:
    labels = PublishedLabels(root, torch.arange(count) % 2, torch.arange(count), size, 2, 42)
    into = {name: one.expand(count, *one.shape[1:]).clone() for name, one in one_view(2, Coding("float32")).items()}
    labels.convert(0, torch.arange(count), Coding("float32"), into)


@pytest.mark.parametrize(("made", "size"), [(32, 64), (28, 56), (16, 128), (112, 224)])
def test_crops_that_fit_a_larger_size_by_their_numbers_are_refused(made, size, tmp_path):
    count = write_epoch(tmp_path, made, 6, "unknown")
    with pytest.raises(
        UserError, match=rf"epoch_0: expected crops of images of {size} px, got crops of {made} px; use the images"
    ):
        convert(tmp_path, count, size)


@pytest.mark.parametrize(("made", "size"), [(64, 32), (32, 48), (224, 64), (33, 32)])
def test_crops_that_do_not_fit_say_their_size(made, size, tmp_path):
    count = write_epoch(tmp_path, made, 6, whole=False)
    with pytest.raises(UserError, match=rf"expected crops of whole pixels of images of {size} px, got such of {made} px; use"):
        convert(tmp_path, count, size)


@pytest.mark.parametrize(("share", "batches"), [("drawn", 8), ("left", 8), ("unknown", 80)])
@pytest.mark.parametrize(("made", "size"), [(32, 64), (48, 64), (24, 224)])
def test_boxes_of_another_size_are_refused_where_crops_tell_nothing(made, size, share, batches, tmp_path):
    """The crops are whole images."""
    count = write_epoch(tmp_path, made, batches, share, whole=True)
    with pytest.raises(UserError, match=rf"expected CutMix boxes of images of {size} px, got CutMix boxes of {made} px"):
        convert(tmp_path, count, size)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("whole", [False, True])
def test_labels_of_the_images_size_are_read_whatever_the_shares_say(share, whole, tmp_path):
    for size in (8, 75):
        count = write_epoch(tmp_path / str(size), size, 5, share, whole)
        convert(tmp_path / str(size), count, size)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("size", [32, 75, *(pytest.param(size, marks=pytest.mark.nightly("stages")) for size in (8, 64, 224))])
def test_no_draw_of_labels_is_taken_for_those_of_another_size(size, share):
    for seed in range(6):
        evidence, draw = Evidence(size), np.random.default_rng(seed)
        for batch in batches_of(size, 60, share, seed):
            evidence.add(torch.tensor(batch.crops[: int(draw.integers(1, 5))]), batch.box, float(np.float32(batch.share)))
            assert evidence.crops() is None and evidence.boxes() is None


def test_one_view_is_too_little_to_tell(tmp_path):
    """A crop of even numbers of pixels is nothing odd; many are."""
    count = write_epoch(tmp_path, 32, 1)
    convert(tmp_path, count, 64)


def labels_of(classes: int, per_class: int) -> PublishedLabels:
    labels = torch.arange(classes).repeat_interleave(per_class)
    return PublishedLabels(Path("fkd"), labels, torch.arange(len(labels)), 32, classes, 42)


@pytest.mark.parametrize(
    ("classes", "per_class", "epochs", "right"),
    [
        (2, 1, 1, 2),
        (2, 1, 1, 0),
        (2, 1, 4, 7),
        (2, 1, 4, 4),
        (3, 1, 2, 5),
        (10, 1, 1, 3),
        (1, 5, 3, 15),
        (1, 5, 3, 14),
        (2, 1, 300, 400),  # a weak teacher, but no chance
        (1000, 10, 1, 60),
        (10, 10, 10, 180),
    ],
)
def test_right_labels_and_too_few_to_tell_are_accepted(classes, per_class, epochs, right):
    labels_of(classes, per_class).check_agreement(right, classes * per_class * epochs)


@pytest.mark.parametrize(
    ("classes", "per_class", "epochs", "right"),
    [(2, 1, 300, 300), (2, 1, 300, 315), (10, 4, 4, 16), (10, 4, 4, 0), (1000, 1, 1, 1), (1000, 10, 1, 12), (100, 1, 2, 2)],
)
def test_labels_that_agree_by_chance_are_refused(classes, per_class, epochs, right):
    views = classes * per_class * epochs
    with pytest.raises(UserError, match=rf"^fkd: .* got their class on {right} of {views} views, as by chance; use"):
        labels_of(classes, per_class).check_agreement(right, views)


def test_the_same_is_true_of_labels_drawn_at_random():
    """Of fitting labels that are right on half of the views, none is refused; of others, hardly one is accepted."""
    draw = np.random.default_rng(0)
    for classes in (2, 5, 10, 100):
        for views in (classes, 4 * classes, 5000):
            labels = labels_of(classes, views // classes)
            chance = 1 / classes
            for right in draw.binomial(views, chance + (1 - chance) / 2, 100):
                labels.check_agreement(int(right), views)
        refused = 0
        for right in draw.binomial(views, chance, 100):
            try:
                labels.check_agreement(int(right), views)
            except UserError:
                refused += 1
        assert refused >= 98


def test_classes_of_unequal_size_agree_more_often_by_chance():
    labels = PublishedLabels(Path("fkd"), torch.tensor([0] * 90 + [1] * 10), torch.arange(100), 32, 2, 42)
    with pytest.raises(UserError, match="as by chance"):
        labels.check_agreement(8200, 10_000)
    labels.check_agreement(8700, 10_000)
