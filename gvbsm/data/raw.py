"""What a reader is asked for, what it returns, and the checks that every data set must pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gvbsm.data.files import Entry, colour_mode, open_image, square, to_tensor
from gvbsm.errors import UserError, unreadable


@dataclass(frozen=True)
class Files:
    """Images that stay where they are: N paths (absolute, or below the data root), int64 sizes in bytes and times in ns."""

    paths: list[str]
    sizes: Tensor
    times: Tensor


@dataclass(frozen=True)
class Form:
    """The form a row wants its images in."""

    image_size: int  # px, square
    channels: int  # 1 or 3
    resize: int  # px of the shorter side before the centre of image_size is cut out
    storage: str  # "packed" or "files"

    def read_image(self, root: Path, entry: Entry, data_root: Path) -> Tensor | tuple[str, int, int]:
        """An image below `root`: uint8 (C,S,S), or with storage "files" its path, size and time.

        Raises:
            UserError: if it is no image, or has to stay a file but is a member of an archive.
        """
        where = f"{root}/{entry.path}"
        if self.storage == "packed":
            assert entry.read
            image = open_image(where, entry.read(), colour_mode(str(root), self.channels))
            return to_tensor(square(image, self.image_size, self.resize))
        if entry.file is None:
            raise UserError(f"{root}: storage: files: expected a folder, got an archive; unpack it, or set storage: packed")
        try:
            status = entry.file.stat()
        except OSError as error:
            raise unreadable(entry.file, error) from None
        path = entry.file.relative_to(data_root) if entry.file.is_relative_to(data_root) else entry.file.absolute()
        return path.as_posix(), status.st_size, status.st_mtime_ns

    def join(self, taken: Sequence[Tensor | tuple[str, int, int]]) -> Tensor | Files:
        """The images of a split together."""
        if self.storage == "packed":
            return torch.stack(taken)  # type: ignore[arg-type]
        paths, sizes, times = zip(*taken, strict=True)
        return Files(list(paths), torch.tensor(sizes), torch.tensor(times))


@dataclass(frozen=True)
class RawDataset:
    """Training and test split: packed images, uint8 (N,C,S,S), or files; int64 labels (N,)."""

    train_images: Tensor | Files
    train_labels: Tensor
    test_images: Tensor | Files
    test_labels: Tensor
    classes: list[str]  # what identifies them, in the order of their labels: folder names, WordNet ids
    class_names: list[str]  # what people call them
    left_out: tuple[str, ...] = ()  # endings of files beside the images, which are none by their names

    def check(self, what: str, classes: int) -> None:
        """Raise UserError if the number of classes differs from `classes`, or one has no image in a split or is no text."""
        if len(self.classes) != classes:
            raise UserError(f"{what}: expected {classes} classes, got {len(self.classes)}; correct `classes` in the row")
        odd = next((name for name in self.classes if name.encode(errors="ignore").decode() != name), None)
        if odd is not None:
            raise UserError(f"{what}: expected class names in UTF-8, got {odd!r}; rename the folder")
        for split, labels in (("train", self.train_labels), ("test", self.test_labels)):
            counts = torch.bincount(labels, minlength=classes)
            if not counts.all():
                name = self.classes[int(counts.argmin())]
                raise UserError(f"{what}: {split}: expected images in every class, got none in {name!r}; add some")
