"""A student's training in small batches, against the step as it is usually written."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from benchmarks.timing import compare, precisions_on, report
from benchmarks.training import MEAN, STD
from gvbsm.backbones.build import build
from gvbsm.config.labels import RandAugment as RandAugmentSettings
from gvbsm.config.labels import ViewsOfImages
from gvbsm.config.shapes import PixelForm
from gvbsm.data.epoch_views import epoch_views
from gvbsm.data.pixels import Pixels
from gvbsm.data.rand_augment import RandAugment
from gvbsm.method.losses import hard_loss, soft_loss
from gvbsm.method.transfer import send
from gvbsm.method.views import grouped, mixed_hard_labels, render
from gvbsm.training.averages import MovingAverage
from gvbsm.training.fit import Recipe, make_optimizer, set_step_size
from gvbsm.training.graphs import recorded
from gvbsm.training.precision import autocast

IMAGES, BATCH = 500, 25
VIEWS = ViewsOfImages(
    batch_size=BATCH,
    scale=[0.5, 1.0],
    ratio=[0.75, 1.3333333],
    flip=True,
    mix="cutmix",
    mix_alpha=1.0,
    rand_augment=RandAugmentSettings(operations=2, magnitude=9),
    seed=0,
)
RECIPE = Recipe(epochs=1, optimizer="adamw", lr=1e-3, momentum=None, weight_decay=0.0, schedule="cosine", seed=0, ema=0.99)


def run(device: torch.device, repeats: int) -> None:
    """Epochs of 500 images of 32 px in batches of 25, seen, mixed and averaged as the recipe edc does."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (IMAGES, 3, 32, 32), dtype=torch.uint8, generator=generator).to(device)
    soft_VK = torch.randn(IMAGES, 10, generator=generator)
    labels_N, augment = torch.arange(IMAGES) % 10, RandAugment.of(VIEWS)
    pixels = Pixels(PixelForm(image_size=32, mean=MEAN, std=STD), device)
    views, batches = epoch_views(VIEWS, 0, IMAGES, 32), torch.arange(IMAGES).split(BATCH)
    some = batches if device.type == "cuda" else batches[:4]  # all of them take a CPU a quarter of a minute

    def seen(positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hard_VK = mixed_hard_labels(labels_N, views, positions, 10, mixed=True)
        x_VCHW = render(images, views, positions, True, pixels.from_levels, device, augment)
        return x_VCHW, send(hard_VK, device), send(soft_VK[positions], device)

    for name, precision in itertools.product(("resnet18", "convnet"), precisions_on(device)):

        def step(
            model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, hard: Tensor, soft: Tensor, low=precision
        ) -> None:
            optimizer.zero_grad(set_to_none=True)
            with autocast(device, low):
                logits = model(x)
            (soft_loss(logits.float(), soft, "mse", None) + 0.15 * hard_loss(logits.float(), hard)).backward()
            optimizer.step()

        def usual(step=step, name=name) -> Any:
            model = build(name, classes=10, image_size=32).to(device, memory_format=torch.channels_last)
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
            averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))

            def epoch() -> None:
                for positions in some:
                    step(model, optimizer, *seen(positions))
                    averaged.update_parameters(model)

            return epoch

        def ours(step=step, name=name) -> Any:
            model = build(name, classes=10, image_size=32).to(device, memory_format=torch.channels_last)
            optimizer, averaged = make_optimizer(model, RECIPE), MovingAverage(model, 0.99)

            def change(batch: tuple[Tensor, ...]) -> None:
                step(model, optimizer, *batch)
                averaged.add()

            def changed() -> list[Tensor]:
                averages = [value for entry in optimizer.state.values() for value in entry.values()]
                return [*model.state_dict().values(), *averages, *averaged.tensors()]

            update = recorded(change, changed, optimizer, device)
            set_step_size(optimizer, 1e-3)

            def epoch() -> None:
                for together in grouped(some, 3 * 32 * 32, device):
                    made = (whole.split([len(batch) for batch in together]) for whole in seen(torch.cat(together)))
                    for batch in zip(*made, strict=True):
                        averaged.advance()
                        update(batch)

            return epoch

        timings = compare({"as usual": usual(), "gvbsm's": ours()}, repeats, device)
        report(f"student: {name}, {precision}, batch {BATCH}, 32 px", timings, "as usual", len(some) * BATCH, "images/s")
