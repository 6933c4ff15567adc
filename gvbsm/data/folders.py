"""Files below a folder, the images among them, and stamps that detect changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath, PurePosixPath
from typing import NotRequired, TypedDict

from gvbsm.errors import unreadable

_IMAGES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".gif"}


class Stamp(TypedDict):
    """Identifies the files of a folder without reading their content."""

    files: int
    bytes: NotRequired[int]
    sha256: NotRequired[str]  # of names, sizes and times


def is_image(path: PurePath) -> bool:
    """Whether a file's name says that it is an image; hidden files are none."""
    return path.suffix.lower() in _IMAGES and is_visible(path)


def is_visible(path: PurePath) -> bool:
    """Whether a file is not hidden; systems leave hidden files in folders."""
    return not path.name.startswith(".")


def is_there(path: Path) -> bool:
    """Whether there is a file or folder. Raises UserError if the system does not allow the check."""
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
    """Number, bytes and a hash of names, sizes and times of the files in a folder for which `counts` is true, or of an
    archive. Reads no content.

    Raises:
        OSError: if there is no such file.
    """
    digest, count, total = hashlib.sha256(), 0, 0
    for file in [root] if not root.is_dir() else [file for file, is_folder in walk(root) if not is_folder and counts(file)]:
        status = file.stat()
        count, total = count + 1, total + status.st_size
        digest.update(os.fsencode(f"{file.relative_to(root).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    return {"files": count, "bytes": total, "sha256": digest.hexdigest()}


def stamp_if_there(root: Path, counts: Callable[[PurePath], bool] = is_image) -> Stamp | None:
    """`stamp`, or None if there is no such folder or archive. Raises UserError if it cannot be read."""
    try:
        return stamp(root, counts) if is_there(root) else None
    except OSError as error:
        raise unreadable(root, error) from None


def difference(before: Stamp, now: Stamp) -> str:
    """The difference of two stamps in words; "" if there is none. Only entries that both have are compared."""
    if {**before, **now} == before:
        return ""
    old, new = (
        f"{state['files']} files" + (f" of {state['bytes']} bytes" if "bytes" in now else "") for state in (before, now)
    )
    return "expected the same names and times, got others" if old == new else f"expected {old}, got {new}"


def count_images(root: Path) -> int:
    """Number of images in a folder, by their names alone.

    Raises:
        OSError: if there is no such folder, or one in it cannot be read.
    """
    root.stat()
    walked = os.walk(root, onerror=_fail, followlinks=True)
    return sum(is_image(PurePosixPath(name)) for _, _, files in walked for name in files)


def _fail(error: OSError) -> None:
    raise error
