"""CIFAR from small archives of the official binary layout; downloads that fail, are cut short or happen twice at once."""

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision import datasets

from gvbsm.config.sources import Cifar, ImageFolder
from gvbsm.data import cifar
from gvbsm.data.raw import Form
from gvbsm.errors import UserError

FORM = Form(image_size=32, channels=3, resize=32, storage="packed")
NAMES = {"cifar10": ["cat", "dog"], "cifar100": ["apple", "aquarium_fish", "baby"]}
RNG = np.random.default_rng(0)
IMAGES = {
    name: RNG.integers(0, 256, (count, 3072), dtype=np.uint8)
    for name, count in [*((f"data_batch_{i}", 4) for i in range(1, 6)), ("test_batch", 6), ("train", 9), ("test", 3)]
}


def records(kind: str, name: str) -> bytes:
    """The file of a batch: image i is of class i modulo their number, and for CIFAR-100 of the coarse class 19."""
    coarse = [] if kind == "cifar10" else [19]
    return b"".join(bytes([*coarse, i % len(NAMES[kind])]) + row.tobytes() for i, row in enumerate(IMAGES[name]))


def official(kind: str) -> dict[str, bytes]:
    """Files of the official archive, in an order of their own, beside some that are of no use."""
    archive = cifar.ARCHIVES[kind]
    files = {f"{archive.folder}/{name}": records(kind, name.removesuffix(".bin")) for name in (*archive.test, *archive.train)}
    files[f"{archive.folder}/{archive.names}"] = ("\n".join(NAMES[kind]) + "\n\n").encode()
    return dict(reversed(files.items())) | {f"{archive.folder}/readme.html": b"<html>", "data_batch_1.bin": b"another"}


def pack(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def put(tmp_path, monkeypatch):
    """Write an archive's bytes where `read` looks for it, and make their MD5 the official one."""

    def write(kind: str, content: bytes, folder: Path = tmp_path, md5: str | None = None, url: str = "") -> Path:
        archive = cifar.ARCHIVES[kind]
        path = folder / archive.url.rpartition("/")[2]
        path.write_bytes(content)
        known = archive._replace(md5=md5 or hashlib.md5(content).hexdigest(), url=f"{url}/{path.name}" if url else archive.url)
        monkeypatch.setitem(cifar.ARCHIVES, kind, known)
        return path

    return write


@pytest.fixture
def offline(monkeypatch):
    for kind, archive in cifar.ARCHIVES.items():
        monkeypatch.setitem(
            cifar.ARCHIVES, kind, archive._replace(url=archive.url.replace("www.cs.toronto.edu", "127.0.0.1:9"))
        )


def read(kind: str, root: Path):
    return cifar.read(Cifar(kind=kind), FORM, root)


def test_cifar10(tmp_path, put):
    put("cifar10", pack(official("cifar10")))
    raw = read("cifar10", tmp_path)
    expected = np.concatenate([IMAGES[f"data_batch_{i}"] for i in range(1, 6)])
    assert raw.train_images.shape == (20, 3, 32, 32) and raw.train_images.dtype == torch.uint8
    assert torch.equal(raw.train_images.flatten(1), torch.from_numpy(expected))
    assert torch.equal(raw.test_images.flatten(1), torch.from_numpy(IMAGES["test_batch"]))
    assert raw.train_labels.tolist() == [0, 1] * 10 and raw.train_labels.dtype == torch.int64
    assert raw.classes == raw.class_names == ["cat", "dog"]
    assert [path.name for path in tmp_path.iterdir()] == ["cifar-10-binary.tar.gz"], "something was unpacked"


def test_cifar100_has_the_fine_classes(tmp_path, put):
    put("cifar100", pack(official("cifar100")))
    raw = read("cifar100", tmp_path)
    assert torch.equal(raw.train_images.flatten(1), torch.from_numpy(IMAGES["train"]))
    assert raw.train_labels.tolist() == [0, 1, 2] * 3 and raw.test_labels.tolist() == [0, 1, 2]
    assert raw.classes == ["apple", "aquarium_fish", "baby"]
    assert raw.class_names == ["apple", "aquarium fish", "baby"]


def test_jpeg_copies_are_the_images_by_class(tmp_path, put):
    """What most studies run on, made of the official archive and read by the row that reads folders."""
    from benchmarks.studies import jpeg_copies
    from gvbsm.data import imagefolder

    put("cifar10", pack(official("cifar10")))
    raw = read("cifar10", tmp_path)
    jpeg_copies.main(tmp_path)
    copies = imagefolder.read(ImageFolder(kind="imagefolder", path="cifar10-jpeg.tar.xz"), FORM, tmp_path)
    assert copies.classes == raw.classes and copies.test_labels.tolist() == [0] * 3 + [1] * 3
    originals = torch.cat([raw.train_images[raw.train_labels == label] for label in (0, 1)])
    loss = (copies.train_images.float() - originals.float()).abs().flatten(1).mean(1)
    other = (copies.train_images.float() - originals.roll(1, 0).float()).abs().flatten(1).mean(1)
    assert (loss > 0).all() and (loss < 0.8 * other).all()  # of noise, JPEG leaves little but enough to tell which it was


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_as_torchvision_reads_the_other_archive(kind, tmp_path, put, monkeypatch):
    """The same images, labels and classes, in the same order, as its reader makes of the pickles."""
    import pickle

    theirs = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[kind]
    folder = tmp_path / theirs.base_folder
    folder.mkdir()
    for name, _ in theirs.train_list + theirs.test_list:
        labels = [i % len(NAMES[kind]) for i in range(len(IMAGES[name]))]
        key = "labels" if kind == "cifar10" else "fine_labels"
        (folder / name).write_bytes(pickle.dumps({"data": IMAGES[name], key: labels}))
    (folder / theirs.meta["filename"]).write_bytes(pickle.dumps({theirs.meta["key"]: NAMES[kind]}))
    monkeypatch.setattr(datasets.cifar, "check_integrity", lambda *_: True)
    put(kind, pack(official(kind)))
    raw = read(kind, tmp_path)
    for images, labels, train in ((raw.train_images, raw.train_labels, True), (raw.test_images, raw.test_labels, False)):
        other = theirs(str(tmp_path), train=train)
        assert np.array_equal(images.permute(0, 2, 3, 1).numpy(), other.data)
        assert labels.tolist() == other.targets and raw.classes == other.classes


def test_another_size_is_refused(tmp_path):
    with pytest.raises(UserError, match="expected image_size 32 and 3 channels, got 64 and 3"):
        cifar.read(Cifar(kind="cifar10"), replace(FORM, image_size=64), tmp_path)


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_without_a_network_the_file_its_sum_and_its_address_are_named(kind, tmp_path, offline):
    archive = cifar.ARCHIVES[kind]
    name = archive.url.rpartition("/")[2]
    message = (
        rf"^{kind}: expected {tmp_path}/{name} \(MD5 {archive.md5}\), which could not be had: .*put the file from http.* there"
    )
    with pytest.raises(UserError, match=message + "$"):
        read(kind, tmp_path)
    (tmp_path / name.replace("binary", "python")).write_bytes(b"pickles")
    with pytest.raises(UserError, match=message + r" \(cifar-100?-python\.tar\.gz, which is there, will not do: .*\)$"):
        read(kind, tmp_path)
    assert len(list(tmp_path.iterdir())) == 1


def altered(kind: str, name: str, content: bytes | None) -> dict[str, bytes]:
    """The official files, one of them with another content or left out."""
    files = official(kind) | {f"{cifar.ARCHIVES[kind].folder}/{name}": content or b""}
    return {file: value for file, value in files.items() if content is not None or not file.endswith(f"/{name}")}


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("cifar10", pack(official("cifar10"))[:2000], r"cifar-10-binary\.tar\.gz: damaged archive: .*; fetch it again"),
        ("cifar10", b"<html>404</html>", r"expected a tar archive, as its name says, got a web page"),
        (
            "cifar10",
            pack(altered("cifar10", "data_batch_3.bin", None)),
            r"expected cifar-10-batches-bin/data_batch_3\.bin in it",
        ),
        ("cifar100", pack(altered("cifar100", "fine_label_names.txt", None)), r"expected .*/fine_label_names\.txt in it"),
        (
            "cifar10",
            pack(altered("cifar10", "test_batch.bin", records("cifar10", "test_batch")[:-1])),
            r"test_batch\.bin: expected records of 3073 bytes, got 18437 bytes; fetch the archive again",
        ),
        (
            "cifar100",
            pack(altered("cifar100", "train.bin", records("cifar10", "train"))),
            r"train\.bin: expected records of 3074",
        ),
        ("cifar10", pack(altered("cifar10", "test_batch.bin", b"")), r"expected records of 3073 bytes, got 0 bytes"),
        (
            "cifar10",
            pack(altered("cifar10", "test_batch.bin", bytes([7] * 3073))),
            r"expected 2 classes, got label 7",
        ),
    ],
)
def test_an_archive_of_another_content_is_one_line(kind, content, message, tmp_path, put):
    """Although its MD5 is taken for the official one."""
    put(kind, content)
    with pytest.raises(UserError, match=message):
        read(kind, tmp_path)


def test_a_file_that_is_there_is_checked(tmp_path, put):
    path = put("cifar10", pack(official("cifar10")))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        UserError, match=r"cifar-10-binary\.tar\.gz: expected MD5 \w{32}, got \w{32}; delete it, or put the file"
    ):
        read("cifar10", tmp_path)
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"cifar-10-binary\.tar\.gz: cannot be read: Is a directory; put the file from"):
        read("cifar10", tmp_path)


def test_another_download_is_not_kept_and_the_next_one_is_made_anew(tmp_path, put, served):
    folder, address = served
    content = pack(official("cifar10"))
    offered = put("cifar10", content[:-10], folder, hashlib.md5(content).hexdigest(), address)
    with pytest.raises(UserError, match=r"which could not be had: the file there has MD5 "):
        read("cifar10", tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []
    offered.write_bytes(content)
    assert read("cifar10", tmp_path / "data").classes == ["cat", "dog"]
    assert [path.name for path in (tmp_path / "data").iterdir()] == [offered.name]


def test_the_names_of_the_official_files():
    assert cifar.ARCHIVES["cifar10"].train == tuple(f"data_batch_{i}.bin" for i in range(1, 6))
    assert all(len(archive.md5) == 32 and archive.url.startswith("https://") for archive in cifar.ARCHIVES.values())
