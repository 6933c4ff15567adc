"""Normalisation, random image sets."""

import pytest
import torch

from gvbsm.config.shapes import PixelForm
from gvbsm.data.image_set import check_images_per_class, random_choice
from gvbsm.data.pixels import Pixels, jpeg_round_trip
from gvbsm.errors import UserError

FORM = PixelForm(image_size=16, mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])


def test_bytes_survive_normalisation():
    pixels = Pixels(FORM, torch.device("cpu"))
    images = torch.arange(256, dtype=torch.uint8).repeat(3).view(1, 3, 16, 16)
    assert torch.equal(pixels.to_bytes(pixels.from_bytes(images), "round"), images)
    low, high = pixels.limits()
    assert torch.equal(pixels.from_bytes(torch.zeros_like(images)).amin((2, 3)), low.flatten(1))
    torch.testing.assert_close(pixels.from_bytes(torch.full_like(images, 255)).amax((2, 3)), high.flatten(1))


BYTES = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)


@pytest.mark.parametrize("method", ["from_bytes", "from_levels", "unit", "to_bytes", "jpeg_round_trip"])
@pytest.mark.parametrize("wrong", ["type", "channels", "size", "one image", "no tensor"])
def test_other_images_are_refused(method, wrong):
    """Floats in 0..1 instead of bytes, or one channel that would count as three, gave wrong inputs in silence."""
    pixels = Pixels(FORM, torch.device("cpu"))
    of_bytes = method in ("from_bytes", "jpeg_round_trip")
    convert = jpeg_round_trip if method == "jpeg_round_trip" else getattr(pixels, method)
    others = ["round"] if method == "to_bytes" else []
    right = BYTES if of_bytes else BYTES.float()
    convert(right, *others)
    images, got = {
        "type": (right.float() if of_bytes else BYTES, r"(float32|uint8) of shape \(2,3,16,16\)"),
        "channels": (right[:, : 2 if of_bytes else 1], r"of shape \(2,[12],16,16\)"),
        "size": (right[..., :8, :8], r"of shape \(2,3,8,8\)"),
        "one image": (right[0], r"of shape \(3,16,16\)"),
        "no tensor": (right.numpy(), "ndarray"),
    }[wrong]
    if method == "jpeg_round_trip" and wrong == "size":
        images, got = right[..., None], r"of shape \(2,3,16,16,1\)"
    with pytest.raises(ValueError, match=rf"^images: expected (uint8|floats) of shape \(B,3,.*\), got .*{got}; convert"):
        convert(images, *others)


def test_a_way_of_rounding_that_is_unknown_is_refused():
    with pytest.raises(ValueError, match="quantise: expected round or truncate, got 'rounded'"):
        Pixels(FORM, torch.device("cpu")).to_bytes(BYTES.float(), "rounded")


def test_random_images_are_balanced_and_nested():
    labels = torch.arange(60) % 3
    few, many = random_choice(labels, 4, 0), random_choice(labels, 10, 0)
    assert torch.bincount(labels[few]).tolist() == [4, 4, 4] and len(set(few.tolist())) == 12
    for label in range(3):
        assert torch.equal(few[labels[few] == label], many[labels[many] == label][:4])
    assert not torch.equal(few, random_choice(labels, 4, 1))
    check_images_per_class(labels, ["a", "b", "c"], 20, "random baselines", "ask for fewer")
    with pytest.raises(UserError, match=r"^random baselines: expected at least 21 .*, got 20 in class 'a'; ask for fewer$"):
        check_images_per_class(labels, ["a", "b", "c"], 21, "random baselines", "ask for fewer")
