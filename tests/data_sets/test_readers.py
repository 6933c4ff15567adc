"""Data sets as prepare packs them."""

import io
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

from gvbsm.config.sources import Digits, ImageFolder
from gvbsm.data import digits, imagefolder
from gvbsm.data.files import open_image
from gvbsm.data.raw import Form
from gvbsm.errors import UserError

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


def exif_of(*tags: tuple[int, int, int, bytes]) -> bytes:
    """EXIF as a camera writes it: tag, type, count and value (4 bytes, or more, which then stand behind the tags)."""
    entries, behind = b"", b""
    for tag, kind, count, value in tags:
        if len(value) > 4:
            behind += value
            value = struct.pack("<I", 8 + 2 + 12 * len(tags) + 4 + len(behind) - len(value))
        entries += struct.pack("<HHI", tag, kind, count) + value
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + behind


def jpeg(exif: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(16 * 24, dtype=np.uint8).reshape(16, 24) // 2).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def turned(number: int) -> tuple[int, int, int, bytes]:
    return 0x0112, 3, 1, struct.pack("<HH", number, 0)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation(orientation, kind):
    exif, buffer = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    Image.fromarray(pixels).save(buffer, kind, exif=exif)
    with Image.open(io.BytesIO(buffer.getvalue())) as image:
        expected = ImageOps.exif_transpose(image)
    assert np.array_equal(open_image("x", buffer.getvalue(), "RGB"), expected)


ODD_TAGS = {
    "a LONG where PIL writes a SHORT": (0x0103, 4, 1, struct.pack("<I", 70_000)),
    "a rational n/0": (0x011A, 5, 1, struct.pack("<II", 72, 0)),
    "a signed rational 0/0": (0x9201, 10, 1, struct.pack("<ii", 0, 0)),
    "a value beyond the end": (0x010F, 2, 99, struct.pack("<I", 60_000)),
    "a type that is unknown": (0x010F, 99, 1, bytes(4)),
    "a folder of tags at no place": (0x8769, 4, 1, struct.pack("<I", 0xFFFFFFFF)),
}


@pytest.mark.parametrize("tag", ODD_TAGS)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_odd_exif_does_not_keep_a_photograph_from_being_turned(tag):
    content = jpeg(exif_of(*sorted([ODD_TAGS[tag], turned(6)])))
    upright = open_image("x", jpeg(b""), "L").transpose(Image.Transpose.ROTATE_270)
    assert np.array_equal(open_image("x", content, "L"), upright)


@pytest.mark.parametrize(
    "exif",
    [
        b"Exif\0\0no tags",
        exif_of(turned(6))[:20],
        exif_of(turned(9)),
        exif_of(turned(0)),
        exif_of((0x0112, 2, 3, b"up\0\0")),
        exif_of((0x0112, 5, 1, struct.pack("<II", 6, 0))),
        exif_of((0x0112, 11, 1, struct.pack("<f", float("nan")))),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_exif_that_cannot_be_read_leaves_the_image_as_it_is_stored(exif):
    assert np.array_equal(open_image("x", jpeg(exif), "L"), open_image("x", jpeg(b""), "L"))


class Odd(Exception):
    """What no library raises."""


RAISED = {
    ZeroDivisionError("Fraction(1, 0)"): "ZeroDivisionError: Fraction(1, 0)",
    struct.error("'H' format requires"): "error: 'H' format requires",
    KeyError("JPEG"): "KeyError: 'JPEG'",
    IndexError(): "IndexError",
    AssertionError(): "AssertionError",
    RecursionError("maximum recursion depth exceeded"): "RecursionError: maximum recursion depth exceeded",
    MemoryError(): "MemoryError",
    RuntimeError("first\nsecond"): "RuntimeError: first",
    Odd("\n"): "Odd",
    OSError("broken data stream"): "broken data stream",
}


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("where", ["open", "transpose", "crop"])
def test_whatever_a_decoder_raises_is_one_line(where, raised, tmp_path, monkeypatch):
    def failing(*_, **__):
        raise raised

    monkeypatch.setattr(Image if where == "open" else Image.Image, where, failing)
    for split in ("train", "test"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a" / "x.jpg").write_bytes(jpeg(exif_of(turned(6))))
    with pytest.raises(UserError) as caught:
        imagefolder.read(ImageFolder(kind="imagefolder", path=tmp_path.name), GREY, tmp_path.parent)
    (line,) = str(caught.value).splitlines()
    first, second = (f"{tmp_path}/{split}/a/x.jpg" for split in ("test", "train"))
    assert line == (
        f"{first}: expected an image, got {RAISED[raised]}; replace or remove the file (2 files in all: then {second})"
    )
