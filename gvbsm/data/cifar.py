"""CIFAR-10 and CIFAR-100 from their official binary archives; the more common archives of pickles are not read."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gvbsm.config.sources import Cifar
from gvbsm.data.download import ensure
from gvbsm.data.files import read_entries
from gvbsm.data.folders import is_there
from gvbsm.data.raw import Form, RawDataset
from gvbsm.data.texts import read_lines
from gvbsm.errors import UserError

_PIXELS = 3 * 32 * 32  # bytes of an image: the red plane, green, blue, each row by row


class Archive(NamedTuple):
    """An official archive: files of records. A record is one or two label bytes, then the image."""

    url: str
    md5: str
    folder: str
    train: tuple[str, ...]  # in the order of the images
    test: tuple[str, ...]
    names: str  # a class per line
    labels: int  # label bytes per record; the last is the class, the one before is CIFAR-100's coarse label


ARCHIVES = {
    "cifar10": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
        md5="c32a1d4ab5d03f1284b67883e8d87530",
        folder="cifar-10-batches-bin",
        train=tuple(f"data_batch_{i}.bin" for i in range(1, 6)),
        test=("test_batch.bin",),
        names="batches.meta.txt",
        labels=1,
    ),
    "cifar100": Archive(
        url="https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
        md5="03b5dce01913d631647c71ecec9e9cb8",
        folder="cifar-100-binary",
        train=("train.bin",),
        test=("test.bin",),
        names="fine_label_names.txt",
        labels=2,
    ),
}


def read(source: Cifar, form: Form, data_root: Path) -> RawDataset:
    """50,000 training and 10,000 test images of 32 px; the archive is downloaded to the data root if it is not there.

    Raises:
        UserError: if the row asks for another size or for grey images, or the archive cannot be found or downloaded, or is a
            different file.
    """
    kind = source.kind
    if (form.image_size, form.channels) != (32, 3):
        raise UserError(
            f"{kind}: expected image_size 32 and 3 channels, got {form.image_size} and {form.channels}; correct the row"
        )
    archive = ARCHIVES[kind]
    path = data_root / archive.url.rpartition("/")[2]
    pickled = path.with_name(path.name.replace("-binary", "-python"))
    hint = f" ({pickled.name}, which is there, will not do: reading it would execute code)" if is_there(pickled) else ""
    ensure(kind, path, archive.url, archive.md5, hint)
    required = {f"{archive.folder}/{name}" for name in (*archive.train, *archive.test, archive.names)}
    files = {entry.path.name: entry.read() for entry in read_entries(path) if entry.read and entry.path.as_posix() in required}
    missing = sorted(required - {f"{archive.folder}/{name}" for name in files})
    if missing:
        raise UserError(f"{path}: expected {missing[0]} in it, got none; put the file from {archive.url} there")
    classes = [line.text for line in read_lines(f"{path}: {archive.names}", files[archive.names])]
    train, test = (_records(path, archive, files, names, len(classes)) for names in (archive.train, archive.test))
    return RawDataset(*train, *test, classes, [name.replace("_", " ") for name in classes])


def _records(
    path: Path, archive: Archive, files: dict[str, bytes], names: tuple[str, ...], classes: int
) -> tuple[Tensor, Tensor]:
    """Images and labels of some files, in their order. Raises UserError for a file that does not consist of whole records."""
    length = archive.labels + _PIXELS
    parts = []
    for name in names:
        if not files[name] or len(files[name]) % length:
            got = len(files[name])
            raise UserError(f"{path}: {name}: expected records of {length} bytes, got {got} bytes; fetch the archive again")
        parts.append(torch.frombuffer(bytearray(files[name]), dtype=torch.uint8).view(-1, length))
    records_NL = torch.cat(parts)
    labels_N = records_NL[:, archive.labels - 1].long()
    if int(labels_N.max()) >= classes:
        raise UserError(f"{path}: expected {classes} classes, got label {int(labels_N.max())}; fetch the archive again")
    return records_NL[:, archive.labels :].reshape(-1, 3, 32, 32), labels_N
