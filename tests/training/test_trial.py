"""Every network of a run is tried before anything is trained: those that can be built and not run, or not see, are refused."""

from __future__ import annotations

import pytest
import torch

from gvbsm.config.shapes import NetworkShape
from gvbsm.errors import UserError
from gvbsm.training.trial import try_network

CPU = torch.device("cpu")


def attempt(name: str, size: int, trained_with: int | None = 2, **options: int) -> int:
    shape = NetworkShape(name=name, options=options, classes=5, image_size=size, channels=3)
    return try_network(shape, trained_with, CPU)


@pytest.mark.parametrize(
    ("name", "size"),
    [("convnet", 32), ("wrn16_2", 16), ("timm:vit_tiny_patch16_224", 48), ("timm:swin_tiny_patch4_window7_224", 40)],
)
def test_networks_that_run_are_counted(name, size):
    assert attempt(name, size) > 10_000
    assert attempt(name, size, None) == attempt(name, size)


@pytest.mark.parametrize(
    ("name", "size", "reason"),
    [
        ("torchvision:alexnet", 40, "pass forward and backward, got RuntimeError: .*too small"),
        ("torchvision:inception_v3", 64, "pass forward and backward, got RuntimeError: .*Kernel size"),
        ("timm:levit_128s", 100, "pass forward and backward, got RuntimeError: "),
        ("torchvision:vit_b_16", 40, "Input shape indivisible by patch size"),
    ],
)
def test_networks_that_can_be_built_and_not_run_are_refused(name, size, reason):
    with pytest.raises(UserError, match=rf"^network {name} .*{reason}.*; (choose another|correct the row)"):
        attempt(name, size)


@pytest.mark.parametrize(
    ("name", "size", "whole"),
    [("timm:vit_tiny_patch16_224", 40, 32), ("timm:mixer_s16_224", 50, 48), ("timm:deit_tiny_patch16_224", 31, 16)],
)
def test_networks_that_leave_out_a_part_of_the_image_are_refused(name, size, whole):
    with pytest.raises(UserError, match=rf"got {size - whole} of {size} rows or columns without effect; .*perhaps {whole},"):
        attempt(name, size)


def test_a_network_is_trained_with_as_many_images_as_a_step_has():
    """BatchNorm can pass one image in eval mode, and cannot train on one value per channel."""
    assert attempt("torchvision:shufflenet_v2_x0_5", 32)
    with pytest.raises(UserError, match="Expected more than 1 value per channel"):
        attempt("torchvision:shufflenet_v2_x0_5", 32, 1)
    assert attempt("torchvision:shufflenet_v2_x0_5", 32, None)
