"""The request to a reader, its result, and the checks of every data set."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gvbsm.data.files import Entry, Unreadable, colour_mode, decoding, open_image, square, to_tensor
from gvbsm.errors import UserError, unreadable
from gvbsm.store.spec import Json

_BLOCK = 2**26  # bytes: above what any allocator keeps for later


@dataclass(frozen=True)
class Files:
    """Images that stay in their files: N paths (absolute, or below the data root), int64 sizes in bytes and times in ns."""

    paths: list[str]
    sizes: Tensor
    times: Tensor


class _Blocks:
    """Images of one shape in blocks of memory. The system takes a block back when no image in it is used any more, which it
    does not promise for pieces of memory as small as an image."""

    def __init__(self) -> None:
        self._block, self._used = torch.empty(0, dtype=torch.uint8), 0

    def keep(self, image_CHW: Tensor) -> Tensor:
        """A copy of an image in a block."""
        if self._used == len(self._block):
            self._block = torch.empty(max(1, _BLOCK // image_CHW.numel()), *image_CHW.shape, dtype=torch.uint8)
            self._used = 0
        kept = self._block[self._used]
        self._used += 1
        return kept.copy_(image_CHW)


@dataclass(frozen=True)
class Form:
    """The form of a row's images."""

    image_size: int  # px, square
    channels: int  # 1 or 3
    resize: int  # px of the shorter side before the centre of image_size is cut out
    storage: str  # "packed" or "files"
    _blocks: _Blocks = field(default_factory=_Blocks, init=False, repr=False, compare=False)
    _unreadable: Unreadable = field(default_factory=Unreadable, init=False, repr=False, compare=False)

    def as_json(self) -> Json:
        """The form as metadata."""
        return {name: getattr(self, name) for name in ("image_size", "channels", "resize", "storage")}

    def read_image(self, root: Path, entry: Entry, data_root: Path) -> Tensor | tuple[str, int, int]:
        """An image below `root`: uint8 (C,S,S), or with storage "files" its path, size and time.

        For a file that cannot be read as an image it is empty, and `join` raises the error, which names several such files.

        Raises:
            UserError: with storage "files", for a member of an archive.
        """
        where = f"{root}/{entry.path}"
        if self.storage == "packed":
            assert entry.read
            mode = colour_mode(str(root), self.channels)
            with self._unreadable.noting(where), decoding(where):
                image = open_image(where, entry.read(), mode)
                return self._blocks.keep(to_tensor(square(image, self.image_size, self.resize)))
            return torch.empty(0)
        if entry.file is None:
            raise UserError(f"{root}: storage: files: expected a folder, got an archive; unpack it, or set storage: packed")
        try:
            status = entry.file.stat()
        except OSError as error:
            raise unreadable(entry.file, error) from None
        path = entry.file.relative_to(data_root) if entry.file.is_relative_to(data_root) else entry.file.absolute()
        return path.as_posix(), status.st_size, status.st_mtime_ns

    def join(self, images: list[Any]) -> Tensor | Files:
        """The images of a split, as `read_image` gives them, together. Empties the list, so that no image is held twice.

        Raises:
            UserError: if some could not be read, of this split or another.
        """
        self._unreadable.check()
        if self.storage == "packed":
            joined = torch.empty(len(images), *images[0].shape, dtype=torch.uint8)
            images.reverse()
            for image_CHW in joined:
                image_CHW.copy_(images.pop())
            return joined
        paths, sizes, times = zip(*images, strict=True)
        return Files(list(paths), torch.tensor(sizes), torch.tensor(times))


@dataclass(frozen=True)
class RawDataset:
    """Training and test split: packed images, uint8 (N,C,S,S), or files; int64 labels (N,)."""

    train_images: Tensor | Files
    train_labels: Tensor
    test_images: Tensor | Files
    test_labels: Tensor
    classes: list[str]  # identifiers, in the order of the labels: folder names, WordNet ids
    class_names: list[str]  # names in plain language
    left_out: tuple[str, ...] = ()  # endings of files that are not images

    def check(self, what: str, classes: int) -> None:
        """Raise UserError if the number of classes is not `classes`, a class has no image in a split, or no text as name."""
        if len(self.classes) != classes:
            raise UserError(f"{what}: expected {classes} classes, got {len(self.classes)}; correct `classes` in the row")
        mismatch = next((name for name in self.classes if name.encode(errors="ignore").decode() != name), None)
        if mismatch is not None:
            raise UserError(f"{what}: expected class names in UTF-8, got {mismatch!r}; rename the folder")
        for split, labels in (("train", self.train_labels), ("test", self.test_labels)):
            counts = torch.bincount(labels, minlength=classes)
            if not counts.all():
                name = self.classes[int(counts.argmin())]
                raise UserError(f"{what}: {split}: expected images in every class, got none in {name!r}; add some")
