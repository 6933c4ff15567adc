"""Views of stored images: drawn and rendered in batches, against one image after another with PIL."""

from __future__ import annotations

import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn import functional as F

from benchmarks import plain
from benchmarks.timing import compare, report
from gvbsm.backbones.build import build
from gvbsm.config.shapes import PixelForm
from gvbsm.data.pixels import Pixels
from gvbsm.method.views import ViewSettings, draw_views, render

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
BATCH = 100
VIEWS = ViewSettings(batch_size=BATCH, scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), flip=True, mix="cutmix", mix_alpha=1.0)


def run(device: torch.device, repeats: int) -> None:
    """Batches of 100 views at 32, 64 and 224 px, and the share that ours takes of a ResNet18 training step in bfloat16."""
    pixels, positions = Pixels(PixelForm(image_size=32, mean=MEAN, std=STD), device), torch.arange(BATCH)
    for size, name in ((32, "resnet18"), (64, "resnet18"), (224, "torchvision:resnet18")):
        images = photographs(BATCH, size)
        one_by_one = plain.image_by_image(images, MEAN, STD)
        resident, views = images.to(device), draw_views(BATCH, size, VIEWS, 0)

        def ours(resident=resident, views=views) -> Tensor:
            return render(resident, views, positions, finish=pixels.from_levels, device=device)

        timings = compare(
            {
                "image by image (one process)": lambda one_by_one=one_by_one: one_by_one(positions).to(device),
                "ours, drawn": lambda size=size: draw_views(BATCH, size, VIEWS, 0),
                "ours, rendered": ours,
            },
            repeats,
            device,
        )
        report(f"views of {size} px, batches of {BATCH}", timings, "image by image (one process)", BATCH, "images/s")
        batch = BATCH if size < 224 or device.type == "cuda" else 8
        model = build(name, classes=10, image_size=size).to(device, memory_format=torch.channels_last)
        x_BCHW, labels_B = ours()[:batch], torch.arange(batch, device=device) % 10

        def step(model=model, x_BCHW=x_BCHW, labels_B=labels_B) -> None:
            with torch.autocast(device.type, torch.bfloat16):
                logits_BK = model(x_BCHW)
            F.cross_entropy(logits_BK.float(), labels_B).backward()

        each = compare({"step": step}, repeats, device)["step"].median / batch  # seconds an image
        share = (timings["ours, drawn"].median + timings["ours, rendered"].median) / BATCH / each
        print(f"  of a ResNet18 training step (bfloat16, {1e3 * each:.2f} ms an image): {100 * share:.1f} %")


def photographs(count: int, size: int) -> Tensor:
    """Pieces of scikit-learn's two photographs, uint8 (N,3,S,S): JPEGs of noise would take far longer to decode."""
    generator, pieces = torch.Generator().manual_seed(0), []
    photos = [torch.from_numpy(photo.copy()).permute(2, 0, 1) for photo in load_sample_images().images]
    for number in range(count):
        photo = photos[number % len(photos)]
        top, left = (int(torch.randint(side - 223, (), generator=generator)) for side in photo.shape[1:])
        piece = photo[None, :, top : top + 224, left : left + 224].float()
        pieces.append(F.interpolate(piece, (size, size), mode="bilinear", antialias=True).round().clamp(0, 255).byte())
    return torch.cat(pieces)
