"""Reading images that stay in their files, as `storage: files` does, against torchvision's ImageFolder with a DataLoader.

Both end with what a network sees: normalised float32 on the device.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from sklearn.datasets import load_sample_images
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

from benchmarks.timing import compare, report
from gvbsm.config.shapes import PixelForm
from gvbsm.config.sources import ImageFolder
from gvbsm.config.teachers import Augment
from gvbsm.data import imagefolder
from gvbsm.data.listed import ListedImages
from gvbsm.data.pixels import Pixels
from gvbsm.data.raw import Files, Form
from gvbsm.data.splits import FileImages

IMAGES, BATCH, SIZE = 400, 50, 224
HEIGHT, WIDTH = 375, 500  # px, as most photographs of ImageNet
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
AUGMENT = Augment(resized_crop=[0.08, 1.0], flip=True)


def run(device: torch.device, repeats: int) -> None:
    """Random resized crops of 224 px, flipped, of JPEG files of 500 x 375 px, in one process and in two workers."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _write(root / "images")
        for workers in (0, 2):
            ours, theirs = _ours(root, workers, device), _torchvision(root, workers, device)
            timings = compare({"ImageFolder + DataLoader": theirs, "ours": ours}, repeats, device)
            where = f"{workers} workers" if workers else "the process itself"
            title = f"{IMAGES} JPEG files to random crops of {SIZE} px, batches of {BATCH}, decoded by {where}"
            report(title, timings, "ImageFolder + DataLoader", IMAGES, "images/s")


def _write(root: Path) -> None:
    """Pieces of scikit-learn's two photographs: JPEGs of noise would take far longer to decode."""
    generator, photos = torch.Generator().manual_seed(0), load_sample_images().images
    for number in range(IMAGES):
        photo = photos[number % len(photos)]
        top, left = (
            int(torch.randint(side - least + 1, (), generator=generator))
            for side, least in zip(photo.shape, (HEIGHT, WIDTH), strict=False)
        )
        folder = root / ("train" if number % 10 else "test") / f"class{number // 10 % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        image = transforms.functional.to_pil_image(photo[top : top + HEIGHT, left : left + WIDTH])
        image.save(folder / f"{number:04d}.jpg", quality=90)


def _ours(root: Path, workers: int, device: torch.device) -> Callable[[], None]:
    form = Form(SIZE, 3, SIZE, "files")
    raw = imagefolder.read(ImageFolder(kind="imagefolder", path="images"), form, root)
    assert isinstance(raw.train_images, Files)
    text = torch.frombuffer(bytearray("\0".join(raw.train_images.paths).encode()), dtype=torch.uint8)
    ends = torch.cat([(text == 0).nonzero().squeeze(1), torch.tensor([len(text)])])
    sizes, times = raw.train_images.sizes, raw.train_images.times
    listed = ListedImages(text, ends, sizes, times, root, SIZE, 3, SIZE, workers)
    split = FileImages(listed, raw.train_labels, AUGMENT, device)
    pixels = Pixels(PixelForm(image_size=SIZE, mean=MEAN, std=STD), device)

    def read() -> None:
        order = torch.randperm(len(raw.train_labels)).split(BATCH)
        for batch in split.augmented([(index, seed) for seed, index in enumerate(order)]):
            pixels.from_levels(batch.float()).sum()

    return read


def _torchvision(root: Path, workers: int, device: torch.device) -> Callable[[], None]:
    steps = [transforms.RandomResizedCrop(SIZE, scale=(0.08, 1.0)), transforms.RandomHorizontalFlip()]
    steps += [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    folder = datasets.ImageFolder(str(root / "images" / "train"), transforms.Compose(steps))
    loader = DataLoader(folder, batch_size=BATCH, shuffle=True, num_workers=workers)

    def read() -> None:
        for images, _ in loader:
            images.to(device).sum()

    return read
