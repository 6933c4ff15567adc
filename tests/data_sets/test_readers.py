"""Data sets as prepare packs them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits

from gvbsm.config.sources import Digits, ImageFolder
from gvbsm.data import digits, imagefolder
from gvbsm.data.raw import Form

GREY = Form(image_size=16, channels=1, resize=16, storage="packed")
NOWHERE = Path("nowhere")


def test_digits_are_split_by_class_with_the_seed():
    source = Digits(kind="digits", seed=0, test_fraction=0.2)
    raw = digits.read(source, GREY, NOWHERE)
    assert len(raw.train_labels) == 1437 and len(raw.test_labels) == 360
    assert raw.train_images.shape == (1437, 1, 16, 16) and raw.train_images.dtype == torch.uint8
    counts = torch.bincount(torch.from_numpy(load_digits().target)).float()
    torch.testing.assert_close(torch.bincount(raw.test_labels) / counts, torch.full((10,), 0.2), atol=0.006, rtol=0)
    again, other = digits.read(source, GREY, NOWHERE), digits.read(source.model_copy(update={"seed": 1}), GREY, NOWHERE)
    assert torch.equal(raw.train_images, again.train_images)
    assert not torch.equal(raw.train_images, other.train_images)


def test_digits_at_their_own_size_are_untouched():
    raw = digits.read(Digits(kind="digits", seed=0, test_fraction=0.2), replace(GREY, image_size=8), NOWHERE)
    together = torch.cat([raw.train_images, raw.test_images]).flatten(1).sort(0).values
    expected = torch.from_numpy(load_digits().images).mul(255 / 16).round().to(torch.uint8).flatten(1).sort(0).values
    assert torch.equal(together, expected)


def test_an_image_folder(tmp_path):
    for split in ("train", "val"):
        for value, name in enumerate(("b", "a")):
            (tmp_path / split / name).mkdir(parents=True)
            wide = np.full((10, 30, 3), 100 * value, np.uint8)
            wide[:, 12:18] = 255  # the centre survives the square cut
            Image.fromarray(wide).save(tmp_path / split / name / "wide.png")
            Image.fromarray(np.full((8, 8), 50, np.uint8)).save(tmp_path / split / name / "grey.PNG")
            (tmp_path / split / name / "notes.txt").write_text("not an image")
    form = Form(image_size=10, channels=3, resize=10, storage="packed")
    raw = imagefolder.read(ImageFolder(kind="imagefolder", path=tmp_path.name), form, tmp_path.parent)
    assert raw.class_names == ["a", "b"]
    assert raw.train_images.shape == (4, 3, 10, 10)
    assert raw.train_labels.tolist() == raw.test_labels.tolist() == [0, 0, 1, 1]
    grey, wide = raw.train_images[:2]
    assert (grey == 50).all()
    assert (wide[:, :, 5] == 255).all() and (wide[:, :, 0] == 100).all()


def test_photographs_are_turned_upright(tmp_path):
    for split in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / split / name).mkdir(parents=True)
            half = Image.fromarray(np.repeat([[255], [0]], 8, 0).repeat(16, 1).astype(np.uint8))  # white above black
            exif = Image.Exif()
            exif[0x0112] = 3  # taken upside down
            half.save(tmp_path / split / name / "x.png", exif=exif)
    image = imagefolder.read(ImageFolder(kind="imagefolder", path=tmp_path.name), GREY, tmp_path.parent).train_images[0, 0]
    assert (image[0] == 0).all() and (image[-1] == 255).all()
