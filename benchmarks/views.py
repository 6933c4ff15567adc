"""Views of stored images: drawn and rendered in batches, against one image after another with PIL."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from benchmarks import plain
from benchmarks.timing import compare, report
from gvbsm.backbones import build
from gvbsm.data.pixels import Pixels
from gvbsm.method.views import ViewSettings, draw_views, render

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
VIEWS = ViewSettings(batch_size=100, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), flip=True, mix="cutmix", mix_alpha=1.0)


def run(device: torch.device, repeats: int) -> None:
    """Batches of 100 views at 32 and at 224 px, and the share that ours takes of a ResNet18 training step."""
    for size, name in ((32, "resnet18"), (224, "torchvision:resnet18")):
        images = torch.randint(0, 256, (1000, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        one_by_one = plain.image_by_image(images[:100], MEAN, STD)
        resident, pixels = images.to(device), Pixels({"mean": MEAN, "std": STD}, device)
        views, positions = draw_views(1000, size, VIEWS, torch.Generator().manual_seed(0)), torch.arange(100)

        def ours(resident=resident, pixels=pixels, views=views, positions=positions) -> torch.Tensor:
            return pixels.normalise(render(resident, views, positions)).contiguous(memory_format=torch.channels_last)

        timings = compare(
            {
                "image by image": lambda one_by_one=one_by_one: one_by_one(torch.arange(100)).to(device),
                "ours, drawn": lambda size=size: draw_views(100, size, VIEWS, torch.Generator().manual_seed(0)),
                "ours, rendered": ours,
            },
            repeats,
            device,
        )
        report(f"views of {size} px, batches of 100", timings, "image by image", 100, "images/s")
        batch = 100 if size == 32 or device.type == "cuda" else 8
        model = build(name, classes=10, image_size=size).to(device, memory_format=torch.channels_last)
        x, y = ours()[:batch], torch.arange(batch, device=device) % 10
        step = compare({"step": lambda model=model, x=x, y=y: F.cross_entropy(model(x), y).backward()}, repeats, device)["step"]
        share = (timings["ours, drawn"].median + timings["ours, rendered"].median) / 100 / (step.median / batch)
        each = step.median / batch  # seconds an image
        share = (timings["ours, drawn"].median + timings["ours, rendered"].median) / 100 / each
        print(f"  of a ResNet18 training step (forward and backward, {1e3 * each:.2f} ms an image): {100 * share:.1f} %")
