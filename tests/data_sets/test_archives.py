"""Archives, odd image files, CIFAR and Tiny-ImageNet from files of their official layouts."""

import hashlib
import http.server
import io
import pickle
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets, transforms

from gvbsm.data import cifar, imagefolder, tiny_imagenet
from gvbsm.data.files import open_image, square, to_tensor
from gvbsm.data.raw import Form
from gvbsm.errors import UserError

COLOUR = Form(image_size=8, channels=3, resize=8, storage="packed")


def png(value: int, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {
    f"top/{split}/{name}/{i}.png": png(10 * i + len(name))
    for split in ("train", "valid")
    for name in ("a", "bb")
    for i in range(2)
}


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w:xz") -> None:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_zip(path: Path, files: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def read(path: Path):
    return imagefolder.read({"kind": "imagefolder", "path": path.name}, COLOUR, path.parent)


@pytest.mark.parametrize("name", ["x.zip", "x.tar", "x.tar.gz", "x.tgz", "x.tar.xz"])
def test_an_archive_is_read_as_its_folder_is(name, tmp_path):
    for file, content in FILES.items():
        (tmp_path / "folder" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / file).write_bytes(content)
    backwards = dict(reversed(FILES.items()))
    if name.endswith("zip"):
        write_zip(tmp_path / name, backwards)
    else:
        write_tar(tmp_path / name, backwards, {"x.tar": "w", "x.tar.xz": "w:xz"}.get(name, "w:gz"))
    folder, archive = read(tmp_path / "folder"), read(tmp_path / name)
    assert folder.class_names == archive.class_names == ["a", "bb"]
    assert torch.equal(folder.train_images, archive.train_images)
    assert torch.equal(folder.test_labels, archive.test_labels)
    assert folder.train_images[:, 0, 0, 0].tolist() == [1, 11, 2, 12]


@pytest.mark.parametrize("name", ["../out/train/a/x.png", "/train/a/x.png"])
@pytest.mark.parametrize("write", [write_tar, write_zip])
def test_names_outside_the_archive_are_refused(name, write, tmp_path):
    path = tmp_path / ("x.zip" if write is write_zip else "x.tar.xz")
    write(path, FILES | {name: png(1)})
    with pytest.raises(UserError, match="expected names below the archive's own folder"):
        read(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(kind, tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        member = tarfile.TarInfo("train/a/x.png")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(UserError, match="expected plain files, got a link or device"):
        read(tmp_path / "x.tar")


@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar.xz"])
def test_a_damaged_archive_is_one_line(name, tmp_path):
    write_zip(tmp_path / name, FILES) if name.endswith("zip") else write_tar(tmp_path / name, FILES, f"w:{name[-2:]}")
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"damaged archive: .*; fetch it again"):
        read(tmp_path / name)


def test_another_file_is_no_archive(tmp_path):
    (tmp_path / "x.rar").write_bytes(b"Rar!")
    with pytest.raises(UserError, match=r"expected a folder or an archive \(\.zip"):
        read(tmp_path / "x.rar")


def encode(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


def test_every_kind_of_image_becomes_rgb():
    def decode(image: Image.Image, kind: str = "PNG") -> torch.Tensor:
        return to_tensor(open_image("x", encode(image, kind), "RGB"))

    red = Image.fromarray(np.tile(np.array([200, 40, 40], np.uint8), (8, 8, 1)))
    expected = torch.tensor([200, 40, 40]).view(3, 1, 1)
    assert (decode(red) == expected).all()
    assert (decode(red.convert("P", palette=Image.Palette.ADAPTIVE)) - expected.short()).abs().max() <= 2
    assert (decode(red.convert("CMYK"), "TIFF").short() - expected).abs().max() <= 12
    assert (decode(red.convert("RGBA")) == expected).all()
    assert (decode(Image.fromarray(np.full((8, 8), 70, np.uint8))) == 70).all()
    assert (decode(Image.fromarray(np.full((8, 8), 70 * 257, np.uint16))) == 70).all()


@pytest.mark.parametrize("shape", [(300, 400), (400, 301), (256, 256), (100, 90)])
def test_the_centre_is_cut_out_as_torchvision_does(shape):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8))
    theirs = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])(image)
    assert np.array_equal(np.array(square(image, 224, 256)), np.array(theirs))


def test_cifar_from_an_archive_where_torchvision_looks(tmp_path, monkeypatch):
    """The real loader, with a small archive whose sums torchvision is told of."""
    rng = np.random.default_rng(0)
    files, arrays = {}, {}
    for name, count in [(f"data_batch_{i}", 4) for i in range(1, 6)] + [("test_batch", 6)]:
        batch = {"data": rng.integers(0, 256, (count, 3072), dtype=np.uint8), "labels": [i % 2 for i in range(count)]}
        arrays[name], files[f"cifar-10-batches-py/{name}"] = batch["data"], pickle.dumps(batch)
    files["cifar-10-batches-py/batches.meta"] = pickle.dumps({"label_names": ["cat", "dog"]})
    write_tar(tmp_path / "cifar-10-python.tar.gz", files, "w:gz")
    sums = {name.split("/")[1]: hashlib.md5(content).hexdigest() for name, content in files.items()}
    monkeypatch.setattr(
        datasets.CIFAR10, "tgz_md5", hashlib.md5((tmp_path / "cifar-10-python.tar.gz").read_bytes()).hexdigest()
    )
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[f"data_batch_{i}", sums[f"data_batch_{i}"]] for i in range(1, 6)])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [["test_batch", sums["test_batch"]]])
    meta = {"filename": "batches.meta", "key": "label_names", "md5": sums["batches.meta"]}
    monkeypatch.setattr(datasets.CIFAR10, "meta", meta)
    form = replace(COLOUR, image_size=32, resize=32)
    raw = cifar.read({"kind": "cifar10"}, form, tmp_path)
    assert raw.train_images.shape == (20, 3, 32, 32) and raw.test_images.shape == (6, 3, 32, 32)
    assert torch.equal(raw.train_images[:4].flatten(1), torch.from_numpy(arrays["data_batch_1"]))
    assert raw.class_names == ["cat", "dog"] and raw.train_labels[:4].tolist() == [0, 1, 0, 1]
    with pytest.raises(UserError, match="expected image_size 32 and 3 channels, got 64 and 3"):
        cifar.read({"kind": "cifar10"}, replace(form, image_size=64), tmp_path)


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_cifar_without_a_network_says_which_file_to_put_where(kind, tmp_path, monkeypatch):
    dataset = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[kind]
    monkeypatch.setattr(dataset, "url", "http://127.0.0.1:9/nothing")
    form = replace(COLOUR, image_size=32, resize=32)
    with pytest.raises(UserError, match=rf"expected .*{dataset.filename} \(MD5 {dataset.tgz_md5}\).*put the file from http"):
        cifar.read({"kind": kind}, form, tmp_path)


def tiny_zip(path: Path, leave_out: str = "") -> None:
    wnids = ["n02", "n01"]
    files = {f"tiny-imagenet-200/train/{w}/images/{w}_{i}.JPEG": png(10 * int(w[1:]) + i, 64) for w in wnids for i in range(3)}
    files |= {f"tiny-imagenet-200/val/images/val_{i}.JPEG": png(100 + i, 64) for i in range(4)}
    notes = "".join(f"val_{i}.JPEG\t{wnids[i % 2]}\t0\t0\t62\t62\n" for i in range(4))
    files |= {"tiny-imagenet-200/val/val_annotations.txt": notes.encode(), "tiny-imagenet-200/wnids.txt": b"n02\nn01\n"}
    files["tiny-imagenet-200/words.txt"] = b"n01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn03\tcar\n"
    write_zip(path, {name: content for name, content in files.items() if not leave_out or leave_out not in name})


def test_tiny_imagenet_from_the_official_layout(tmp_path):
    tiny_zip(tmp_path / "tiny.zip")
    form = replace(COLOUR, image_size=64, resize=64)
    raw = tiny_imagenet.read({"kind": "tiny_imagenet", "path": "tiny.zip"}, form, tmp_path)
    assert raw.class_names == ["goldfish", "bullfrog"]
    assert raw.train_images[:, 0, 0, 0].tolist() == [10, 11, 12, 20, 21, 22]
    assert raw.train_labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert raw.test_labels.tolist() == [0, 0, 1, 1]
    assert raw.test_images[:, 0, 0, 0].tolist() == [101, 103, 100, 102]


@pytest.mark.parametrize("part", ["words.txt", "val_annotations.txt", "train/", "val/images"])
def test_tiny_imagenet_of_another_layout_is_refused(part, tmp_path):
    tiny_zip(tmp_path / "tiny.zip", leave_out=part)
    form = replace(COLOUR, image_size=64, resize=64)
    with pytest.raises(UserError, match="expected the layout of the official zip, got another"):
        tiny_imagenet.read({"kind": "tiny_imagenet", "path": "tiny.zip"}, form, tmp_path)


@pytest.fixture
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, str]]:
    """A folder and the address at which a local server offers its files."""
    folder = tmp_path_factory.mktemp("served")
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield folder, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_another_file_than_the_official_zip_is_not_kept(served, tmp_path, monkeypatch):
    folder, address = served
    tiny_zip(folder / "tiny.zip")
    monkeypatch.setattr(tiny_imagenet, "URL", f"{address}/tiny.zip")
    form = replace(COLOUR, image_size=64, resize=64)
    source = {"kind": "tiny_imagenet", "path": "tiny.zip"}
    with pytest.raises(UserError, match=r"expected .*tiny\.zip, which could not be had: File not found or corrupted"):
        tiny_imagenet.read(source, form, tmp_path)
    assert not (tmp_path / "tiny.zip").exists()
    # What is left of it, as of an interrupted download, does no harm to the next one.
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5((folder / "tiny.zip").read_bytes()).hexdigest())
    assert tiny_imagenet.read(source, form, tmp_path).class_names == ["goldfish", "bullfrog"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tiny.zip"]


def test_tiny_imagenet_without_a_network_says_which_file_to_put_where(tmp_path, monkeypatch):
    monkeypatch.setattr(tiny_imagenet, "URL", "http://127.0.0.1:9/tiny.zip")
    form = replace(COLOUR, image_size=64, resize=64)
    with pytest.raises(UserError, match=r"expected .*tiny\.zip, which could not be had: .*; put the file from http.* there"):
        tiny_imagenet.read({"kind": "tiny_imagenet", "path": "tiny.zip"}, form, tmp_path)
    assert list(tmp_path.iterdir()) == []
