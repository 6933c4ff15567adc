"""An exported folder: what stands in its two JSON files, and its images read back from PNG, alone or in tar archives."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal, NamedTuple, cast

import torch
from pydantic import Field, TypeAdapter, ValidationError
from torch import Tensor

from gvbsm.config.messages import describe
from gvbsm.config.sources import Strict
from gvbsm.data.archives import read_members
from gvbsm.data.files import colour_mode, open_image, read_file, to_tensor
from gvbsm.data.folders import is_image
from gvbsm.data.image_set import allocated
from gvbsm.errors import UserError
from gvbsm.share.forms import Form
from gvbsm.store.files import file_hash, parse_json
from gvbsm.store.job import Reader
from gvbsm.store.receipts import Receipt
from gvbsm.store.spec import Json

FORMAT = 1
MANIFEST, CLASSES = "gvbsm.json", "classes.json"
BATCH = 256  # images that are decoded or encoded together
SHARD = 1000  # images of a tar archive
_COUNT = Annotated[int, Field(ge=1, lt=2**31)]
_SIDE = Annotated[int, Field(ge=1, le=2**14)]
_Encoded = tuple[int, str, bytes]  # label, where it stands, PNG


class LabelFile(Strict):
    """A file of soft labels (docs/soft-labels.md)."""

    file: Annotated[str, Field(pattern=r"^labels/labels-[0-9]+\.safetensors$")]
    sha256: str


class Manifest(Strict):
    """What gvbsm.json holds: what the folder is, and by what its content is known again."""

    format: Literal[1]
    form: Form
    dataset: str
    ipc: _COUNT
    recipe: str | None
    images: _COUNT
    image_size: _SIDE  # px
    channels: Literal[1, 3]
    images_sha256: str  # of the pixels (N,C,S,S) and, after them, the labels (int64, little-endian)
    mean: list[float]  # per channel, of values in 0..1
    std: list[Annotated[float, Field(gt=0)]]
    labels: list[LabelFile]
    accuracies: Json  # as in acc.json: students, baselines, teachers
    training: Json  # by student: network, settings
    provenance: Json


class ExportedClass(Strict):
    """A class as classes.json lists it, in the order of the labels."""

    label: Annotated[int, Field(ge=0)]
    identity: str  # a WordNet id, say, or what its folder was called in the source
    name: str
    folder: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]+$")]


class Exported(NamedTuple):
    """An exported folder whose images and labels are as they were written."""

    manifest: Manifest
    classes: list[ExportedClass]
    images: Tensor  # uint8 (N,C,S,S), by class and number
    labels: Tensor  # int64 (N,)
    reader: Reader  # of the soft labels


def list_classes(classes: list[str], class_names: list[str]) -> list[ExportedClass]:
    """Every class with a folder of its own whose name any file system and shell takes, and which sort as the labels do."""
    width = max(4, len(str(len(classes) - 1)))
    both = enumerate(zip(classes, class_names, strict=True))
    return [
        ExportedClass(label=label, identity=identity, name=name, folder=f"{label:0{width}d}{_suffix(name)}")
        for label, (identity, name) in both
    ]


def _suffix(name: str) -> str:
    """What of a name is plain letters and digits, for people: the label before it is what makes a folder's name unique."""
    letters = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9]+", "_", letters).strip("_")[:40]
    return f"_{plain}" if plain else ""


def unique_names(classes: list[ExportedClass]) -> list[str]:
    """Names of classes by label, with what identifies a class, then its label, where two have the same (ImageNet's cranes)."""
    names = [exported.name for exported in classes]
    if len(set(names)) < len(names):
        names = [
            exported.name if names.count(exported.name) == 1 else f"{exported.name} ({exported.identity})"
            for exported in classes
        ]
    if len(set(names)) < len(names):
        names = [f"{exported.label}: {name}" for exported, name in zip(classes, names, strict=True)]
    return names


class Digest:
    """SHA-256 of images and their labels, whatever batches they come in."""

    def __init__(self) -> None:
        self._images, self._labels = hashlib.sha256(), b""

    def add(self, images_BCHW: Tensor, labels_B: Tensor) -> None:
        """Take a batch: uint8 images, int64 labels."""
        self._images.update(images_BCHW.contiguous().numpy().data)
        self._labels += labels_B.numpy().astype("<i8").tobytes()

    def hex(self) -> str:
        """Of all that was added."""
        whole = self._images.copy()
        whole.update(self._labels)
        return whole.hexdigest()


def read_folder(root: Path) -> Exported:
    """An exported folder, checked.

    Raises:
        UserError: if anything in it is not as it was written.
    """
    manifest = _parse(root / MANIFEST, TypeAdapter(Manifest))
    classes = _parse(root / CLASSES, TypeAdapter(list[ExportedClass]))
    if not len(manifest.mean) == len(manifest.std) == manifest.channels:
        got = f"{len(manifest.mean)} and {len(manifest.std)}"
        raise UserError(f"{root / MANIFEST}: expected {manifest.channels} values in mean and std, got {got}; export it again")
    if [exported.label for exported in classes] != list(range(len(classes))):
        raise UserError(f"{root / CLASSES}: expected labels from 0 on, got others; export it again")
    images, labels = _decoded(root, manifest, _encoded(root, manifest, classes), len(classes))
    paths = {labels.file: labels.sha256 for labels in manifest.labels}
    for file, expected in paths.items():
        try:
            digest = file_hash(root / file)
        except OSError as error:
            raise UserError(f"{root / file}: cannot be read: {error.strerror}; fetch the folder again") from None
        if digest != expected:
            raise UserError(f"{root / file}: damaged: its content is not what {MANIFEST} says; fetch the folder again")
    # Checked here, and known to be: these files have no receipts.
    receipts = {file: cast(Receipt, {"sha256": digest, "inputs": {}}) for file, digest in paths.items()}
    reader = Reader(store=root, receipts=receipts, classes=[exported.identity for exported in classes])
    return Exported(manifest, classes, images, labels, reader)


def _parse(file: Path, adapter: TypeAdapter[Any]) -> Any:
    try:
        return adapter.validate_python(parse_json(read_file(file)))
    except ValidationError as error:
        raise UserError(f"{file}: {describe(error, Manifest)}; or export it again") from None
    except ValueError:
        raise UserError(f"{file}: expected JSON, got something else; fetch the folder again") from None


def _encoded(root: Path, manifest: Manifest, classes: list[ExportedClass]) -> Iterator[_Encoded]:
    """Every image's label, where it stands and its bytes, in the order of class and number."""
    if manifest.form != "webdataset":
        for exported in classes:
            folder = root / "train" / exported.folder
            for file in sorted(folder.iterdir()) if folder.is_dir() else []:
                if is_image(file):
                    yield exported.label, str(file), read_file(file)
        return
    for archive in sorted(root.glob("train-*.tar")):
        members: dict[str, dict[str, bytes]] = {}
        for path, content in read_members(archive):
            sample = members.setdefault(path.stem, {})
            sample[path.suffix] = content or b""
            if sample.keys() >= {".png", ".cls"}:
                yield _label(archive, path, sample[".cls"]), f"{archive}: {path.stem}.png", sample[".png"]
                del members[path.stem]


def _label(archive: Path, path: PurePosixPath, content: bytes) -> int:
    if not re.fullmatch(rb"[0-9]{1,9}", content):
        raise UserError(f"{archive}: {path.stem}.cls: expected a label, got {content[:20]!r}; fetch the folder again")
    return int(content)


def _decoded(root: Path, manifest: Manifest, encoded: Iterable[_Encoded], classes: int) -> tuple[Tensor, Tensor]:
    """Images (N,C,S,S) and labels (N,), which must be those that were written."""
    size, mode = manifest.image_size, colour_mode(str(root), manifest.channels)
    shape = torch.Size((manifest.images, manifest.channels, size, size))
    images = allocated(shape, None)
    labels, at, digest, source = torch.zeros(len(images), dtype=torch.int64), 0, Digest(), iter(encoded)

    def decode(one: _Encoded) -> Tensor:
        pixels = to_tensor(open_image(one[1], one[2], mode))
        if pixels.shape != shape[1:]:
            expected, got = ("x".join(map(str, lengths)) for lengths in (shape[1:], pixels.shape))
            raise UserError(f"{one[1]}: expected an image of {expected}, got {got}; fetch the folder again")
        return pixels

    with ThreadPoolExecutor() as pool:
        while batch := list(islice(source, BATCH)):
            end = at + len(batch)
            if end > len(images):
                raise _count(root, len(images), "more")
            images[at:end] = torch.stack(list(pool.map(decode, batch)))
            labels[at:end] = torch.tensor([label for label, *_ in batch])
            digest.add(images[at:end], labels[at:end])
            at = end
    if at < len(images):
        raise _count(root, len(images), str(at))
    if digest.hex() != manifest.images_sha256 or int(labels.max()) >= classes:
        raise UserError(f"{root}: damaged: its images are not those that {MANIFEST} tells of; fetch the folder again")
    return images, labels


def _count(root: Path, expected: int, got: str) -> UserError:
    return UserError(f"{root}: expected {expected} images, got {got}; fetch the folder again")
