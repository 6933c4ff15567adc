"""Files below a folder, which of them are images, and stamps that tell whether they are still the same."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import NotRequired, TypedDict

from gvbsm.errors import unreadable

_IMAGES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".gif"}


class Stamp(TypedDict):
    """By what files are known to be the same, without their content."""

    files: int
    bytes: NotRequired[int]
    sha256: NotRequired[str]  # of names, sizes and times


def is_image(path: PurePath) -> bool:
    """Whether a file's name says that it is an image; hidden files are none."""
    return path.suffix.lower() in _IMAGES and is_visible(path)


def is_visible(path: PurePath) -> bool:
    """Whether a file is none of those that systems leave in folders."""
    return not path.name.startswith(".")


def is_there(path: Path) -> bool:
    """Whether there is a file or folder. Raises UserError if that cannot be told."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unreadable(path, error) from None
    return True


def walk(root: Path) -> Iterator[tuple[Path, bool]]:
    """Every file and folder below a folder, sorted within each, and whether it is a folder.

    Raises:
        OSError: if a folder cannot be read.
    """
    for folder, folders, files in os.walk(root, onerror=_fail, followlinks=True):
        folders.sort()
        yield from ((Path(folder, name), True) for name in folders)
        yield from ((Path(folder, name), False) for name in sorted(files))


def stamp(root: Path, counts: Callable[[PurePath], bool] = is_image) -> Stamp:
    """Number, bytes and a hash of names, sizes and times of the files that count in a folder, or of an archive: no content
    is read.

    Raises:
        OSError: if a file is not there.
    """
    digest, count, total = hashlib.sha256(), 0, 0
    for file in [root] if not root.is_dir() else [file for file, is_folder in walk(root) if not is_folder and counts(file)]:
        status = file.stat()
        count, total = count + 1, total + status.st_size
        digest.update(os.fsencode(f"{file.relative_to(root).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    return {"files": count, "bytes": total, "sha256": digest.hexdigest()}


def stamp_if_there(root: Path, counts: Callable[[PurePath], bool] = is_image) -> Stamp | None:
    """`stamp`, or None if nothing is there. Raises UserError if it cannot be read."""
    try:
        return stamp(root, counts) if is_there(root) else None
    except OSError as error:
        raise unreadable(root, error) from None


def difference(before: Stamp, now: Stamp) -> str:
    """How two stamps differ, in words; "" if they do not. What one of them lacks is not compared."""
    if {**before, **now} == before:
        return ""
    old, new = (f"{one['files']} files" + (f" of {one['bytes']} bytes" if "bytes" in now else "") for one in (before, now))
    return "expected the same names and times, got others" if old == new else f"expected {old}, got {new}"


def count_images(root: Path) -> int:
    """Number of images in a folder, by their names alone.

    Raises:
        OSError: if it is not there, or a folder in it cannot be read.
    """
    root.stat()
    walked = os.walk(root, onerror=_fail, followlinks=True)
    return sum(is_image(PurePosixPath(name)) for _, _, files in walked for name in files)


def _fail(error: OSError) -> None:
    raise error
