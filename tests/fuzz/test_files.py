"""Files by others with changed bytes: images, archives, labels, weights, texts. They are read, or refused in one line."""

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from gvbsm.config.sources import ImageNet, TinyImageNet
from gvbsm.data import imagenet, tiny_imagenet
from gvbsm.data.files import open_image, read_entries
from gvbsm.data.fkd import PublishedLabels, one_view
from gvbsm.data.raw import Form
from gvbsm.data.texts import read_lines, read_table
from gvbsm.data.torch_files import read_state
from gvbsm.method.coding import Coding
from tests.fuzz.mutations import VALUES, altered, changed, changes_of_bytes, fuzz, succeeds_or_says_why

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8)


def encoded(form: str, mode: str = "RGB", **options: Any) -> bytes:
    image = Image.fromarray(PIXELS)
    image = Image.fromarray(PIXELS[..., 0].astype(np.uint16) * 257) if mode == "I;16" else image.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def exif() -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112], tags[0x010F], tags[0x011A] = 6, "maker", (72, 1)  # orientation, make, resolution
    tags.get_ifd(0x8769)[0x829A] = (1, 50)
    return tags


IMAGES = {
    "png": encoded("PNG"),
    "png, palette": encoded("PNG", "P", transparency=0),
    "png, 16 bits": encoded("PNG", "I;16"),
    "png, EXIF": encoded("PNG", exif=exif()),
    "jpeg": encoded("JPEG"),
    "jpeg, EXIF": encoded("JPEG", exif=exif()),
    "jpeg, progressive": encoded("JPEG", progressive=True),
    "jpeg, CMYK": encoded("JPEG", "CMYK"),
    "gif": encoded("GIF", "P"),
    "gif, frames": encoded("GIF", "P", save_all=True, append_images=[Image.new("P", (16, 12))]),
    "tiff": encoded("TIFF"),
    "tiff, LZW": encoded("TIFF", compression="tiff_lzw", exif=exif()),
    "tiff, 16 bits": encoded("TIFF", "I;16", compression="tiff_deflate"),
    "webp": encoded("WEBP", exif=exif()),
    "webp, lossless": encoded("WEBP", "RGBA", lossless=True),
    "bmp": encoded("BMP"),
    "ppm": encoded("PPM"),
}


@fuzz(20)
@given(st.sampled_from(["L", "RGB"]), changes_of_bytes())
@pytest.mark.parametrize("name", IMAGES)
def test_images(name, mode, changes):
    succeeds_or_says_why(open_image, name, changed(IMAGES[name], changes), mode)


NAMES = ["0/a.png", "0/b.png", "1/a.png", "1/", "../a.png", "/a.png", "0/../../a.png", "C:\\a.png", "0\\a.png", "a\0b.png", "",
         ".", "0//a.png", "0/\n.png", "é.png", "e\u0301.png", "x" * 300 + ".png", "0/a.png/b.png"]  # fmt: skip
TYPES = [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, b"Z"]
ENDINGS = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.xz": "w:xz"}


@st.composite
def archives(draw: st.DrawFn) -> tuple[str, bytes]:
    """An ending and an archive, often with members that no good archive has."""
    ending, buffer = draw(st.sampled_from([".zip", *ENDINGS])), io.BytesIO()
    names = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=4))
    if ending == ".zip":
        with zipfile.ZipFile(buffer, "w") as packed:
            for name in names:
                info = zipfile.ZipInfo(name)
                info.compress_type = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))
                info.external_attr = draw(st.sampled_from([0, 0o100644 << 16, 0o120777 << 16, 0o040755 << 16]))
                packed.writestr(info, IMAGES["png"])
    else:
        form = draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
        with tarfile.open(mode=ENDINGS[ending], fileobj=buffer, format=form) as packed:
            for name in names:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = draw(st.sampled_from(TYPES)), draw(st.sampled_from(NAMES))
                member.size = len(IMAGES["png"]) if member.type == tarfile.REGTYPE else 0
                packed.addfile(member, io.BytesIO(IMAGES["png"]))
    content = buffer.getvalue()
    return ending, changed(content, draw(changes_of_bytes())) if draw(st.booleans()) else content


def read_all(root: Path) -> None:
    for entry in read_entries(root, quiet=True):
        if entry.read:
            open_image(str(entry.path), entry.read(), "RGB")


@fuzz(50)
@given(archives())
def test_archives(tmp_path, archive):
    ending, content = archive
    file = tmp_path / f"images{ending}"
    file.write_bytes(content)
    succeeds_or_says_why(read_all, file)


BATCH = [
    torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.75, 0.75]]),
    torch.tensor([True, False]),
    torch.tensor([1, 0]),
    0.75,
    [2, 2, 6, 6],
    torch.tensor([[1.0, 2.0], [2.0, 1.0]]),
    torch.tensor([0, 1]),
]
TENSORS = st.builds(
    lambda shape, kind, value: torch.full(shape, value).to(kind),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.float16, torch.float64, torch.int64, torch.bool, torch.complex64, torch.bfloat16]),
    st.sampled_from([0.0, 1.0, -1.0, 0.5, float("nan"), float("inf"), 1e30]),
)


def convert(root: Path) -> None:
    labels = PublishedLabels(root, torch.tensor([0, 1]), torch.arange(2), 8, 2, 42)
    into = {name: one.expand(2, *one.shape[1:]).clone() for name, one in one_view(2, Coding("float32")).items()}
    labels.convert(0, torch.arange(2), labels.coding, into)


def saved(content: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def write_batch(root: Path, content: bytes) -> None:
    (root / "epoch_0").mkdir(exist_ok=True)
    (root / "epoch_0" / "batch_0.tar").write_bytes(content)


def test_a_whole_batch_is_read(tmp_path):
    write_batch(tmp_path, saved(BATCH))
    assert succeeds_or_says_why(convert, tmp_path)


@fuzz(40)
@given(altered([BATCH], st.one_of(VALUES, TENSORS)))
def test_labels_of_other_content(tmp_path, batch):
    write_batch(tmp_path, saved(batch))
    succeeds_or_says_why(convert, tmp_path)


@fuzz(33)
@given(st.booleans(), changes_of_bytes())
def test_labels_of_other_bytes(tmp_path, is_new, changes):
    write_batch(tmp_path, changed(saved(BATCH, _use_new_zipfile_serialization=is_new), changes))
    succeeds_or_says_why(convert, tmp_path)


STATE = {"conv.weight": torch.ones(2, 1, 3, 3), "bn.running_mean": torch.zeros(2)}


@fuzz(33)
@given(st.booleans(), changes_of_bytes())
def test_weights(tmp_path, is_safetensors, changes):
    file = tmp_path / ("w.safetensors" if is_safetensors else "w.pth")
    file.write_bytes(changed(save(STATE) if is_safetensors else saved({"model": STATE}), changes))
    succeeds_or_says_why(read_state, file)


TEXTS = {
    "val_annotations.txt": b"a.png\tn01\t0\t0\t9\t9\nb.png\tn02\t0\t0\t9\t9\n",
    "words.txt": b"n01\tcat, house cat\nn02\tdog\n",
    "solution.csv": b'ImageId,PredictionString\na,n01 0 0 9 9 n01 1 1 2 2\nb,"n02 0 0 9 9"\n',
}
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be", "cp1252"]


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, bytes]:
    name = draw(st.sampled_from(sorted(TEXTS)))
    text = TEXTS[name].decode().replace("\n", draw(st.sampled_from(["\n", "\r\n", "\r", "\n\n"])))
    content = text.encode(draw(st.sampled_from(ENCODINGS)))
    return name, draw(
        st.one_of(st.binary(max_size=40), st.just(content), changes_of_bytes().map(lambda by: changed(content, by)))
    )


def read_text(name: str, content: bytes) -> None:
    for line in read_lines(name, content):
        line.columns()
    list(read_table(name, content, ("ImageId", "PredictionString")))


@fuzz(50)
@given(texts())
def test_texts(text):
    succeeds_or_says_why(read_text, *text)


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data")
    for wnid in ("n01", "n02"):
        for folder in (root / "tiny" / "train" / wnid / "images", root / "train" / wnid):
            folder.mkdir(parents=True)
            (folder / f"{wnid}.png").write_bytes(IMAGES["png"])
    for folder in (root / "tiny" / "val" / "images", root / "val"):
        folder.mkdir(parents=True)
        for name in ("a.png", "b.png"):
            (folder / name).write_bytes(IMAGES["png"])
    for name, content in TEXTS.items():
        (root / ("tiny/val" if name.startswith("val") else "tiny" if name.startswith("words") else "") / name).write_bytes(
            content
        )
    return root


FORM = Form(image_size=8, channels=3, resize=8, storage="packed")
READERS = {
    "val_annotations.txt": lambda root: tiny_imagenet.read(TinyImageNet(kind="tiny_imagenet", path="tiny"), FORM, root),
    "solution.csv": lambda root: imagenet.read(
        ImageNet(kind="imagenet", train="train", val="val", ground_truth="solution.csv"), FORM, root
    ),
}
READERS["words.txt"] = READERS["val_annotations.txt"]


@pytest.mark.parametrize("name", READERS)
def test_whole_texts_are_read(name, data_root):
    assert succeeds_or_says_why(READERS[name], data_root)


@fuzz(20)
@given(texts())
def test_readers_of_texts(data_root, text):
    name, content = text
    file = next(data_root.rglob(name))
    file.write_bytes(content)
    succeeds_or_says_why(READERS[name], data_root)
    file.write_bytes(TEXTS[name])
