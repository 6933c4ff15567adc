"""squeeze's training step with its data on the device and batched augmentation, against the step alone."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.timing import compare, precisions_on, report
from gvbsm.backbones.build import build
from gvbsm.config.shapes import PixelForm
from gvbsm.config.teachers import Augment
from gvbsm.data.pixels import Pixels
from gvbsm.data.splits import PackedImages
from gvbsm.training.precision import autocast

MEAN, STD = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]


def run(device: torch.device, repeats: int) -> None:
    """Steps of 64 images of 32 px, as the CIFAR rows train their teachers."""
    images = torch.randint(0, 256, (5000, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(5000) % 10
    train = PackedImages(images, labels, Augment(pad=4, flip=True), device)
    pixels = Pixels(PixelForm(image_size=32, mean=MEAN, std=STD), device)
    x = torch.randn(64, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    for name, precision in itertools.product(("resnet18", "convnet", "wrn16_2"), precisions_on(device)):
        model: nn.Module = build(name, classes=10, image_size=32).to(device, memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

        def step(x_BCHW: Tensor, labels_B: Tensor, model=model, optimizer=optimizer, precision=precision) -> None:
            optimizer.zero_grad(set_to_none=True)
            with autocast(device, precision):
                logits_BK = model(x_BCHW)
            F.cross_entropy(logits_BK.float(), labels_B).backward()
            optimizer.step()

        def ours(step=step) -> None:
            index = torch.randint(0, len(labels), (64,))
            levels_BCHW = next(train.augmented([(index, 0)]))
            step(
                pixels.from_levels(levels_BCHW.float()).contiguous(memory_format=torch.channels_last), labels[index].to(device)
            )

        alternatives = {"the step alone": lambda step=step: step(x, labels[:64].to(device)), "squeeze's": ours}
        timings = compare(alternatives, repeats * 3, device)
        report(f"squeeze: {name}, {precision}, batch 64, 32 px", timings, "the step alone", 64, "images/s")
