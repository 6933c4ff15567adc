"""Files below a folder, the images among them, and stamps that detect changes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path, PurePath
from typing import Literal, NotRequired, TypedDict

from gvbsm.errors import unreadable

_IMAGES = {".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".webp", ".ppm", ".pgm", ".pbm", ".pnm", ".tif", ".tiff", ".gif"}
# In lower case. Others are hidden: .ipynb_checkpoints, .Trash-1000, ._x.png.
_OF_SYSTEMS = {"__macosx", "@eadir", "#recycle", "#snapshot", "@recycle", "@recently-snapshot", "$recycle.bin", "lost+found"}
_OF_SYSTEMS |= {"system volume information", "__pycache__", "thumbs.db", "desktop.ini"}
_OTHER_CONTENT = "expected the same names and content, got others"
_SAMPLE, _PART = 256, 2**20  # files of a sample, and the bytes of each that are read at its start and at its end


class Stamp(TypedDict):
    """Identifies the files of a folder."""

    files: int
    bytes: NotRequired[int]
    sha256: NotRequired[str]  # of names, sizes and times
    newest: NotRequired[int]  # the latest time, ns
    content: NotRequired[str]  # SHA-256 of names and bytes, if a job has read them all
    sample: NotRequired[str]  # else of names, sizes and the bytes of some


def is_image(path: PurePath) -> bool:
    """Whether a file's name says that it is an image; files that are not visible are none."""
    return path.suffix.lower() in _IMAGES and is_visible(path)


def is_visible(path: PurePath) -> bool:
    """Whether a file or folder is neither hidden nor one that a system, a NAS or an editor leaves, with previews or copies."""
    return _is_visible(path.name)


def _is_visible(name: str) -> bool:
    return not name.startswith(".") and name.lower() not in _OF_SYSTEMS


def is_there(path: Path) -> bool:
    """Whether there is a file or folder. Raises UserError if the system does not allow the check."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unreadable(path, error) from None
    return True


class LeftOut:
    """The entries that a walk leaves out, below its root, by the reason."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, None]] = {}

    def add_invisible(self, path: PurePath, is_folder: bool) -> bool:
        """Whether an entry or a folder above it is not visible; if so, and it could hold images, it is noted."""
        parts = path.parts
        depth = next((i for i, part in enumerate(parts, 1) if not _is_visible(part)), None)
        if depth is None:
            return False
        if is_folder or depth < len(parts) or path.suffix.lower() in _IMAGES:
            self._add("hidden or of a system", PurePath(*parts[:depth]))
        return True

    def add_link(self, path: PurePath) -> None:
        """Note a link to a folder that it is in."""
        self._add("links to a folder above", path)

    def add_older(self, path: PurePath) -> None:
        """Note a member of an archive that a later one of the same name replaces."""
        self._add("older ones of a name that the archive holds twice", path)

    def _add(self, reason: str, path: PurePath) -> None:
        self._names.setdefault(reason, {})[path.as_posix()] = None

    def __str__(self) -> str:
        return "; ".join(f"{reason}: {len(names)}, such as {next(iter(names))}" for reason, names in self._names.items())


def walk(root: Path, left_out: LeftOut | None = None) -> Iterator[tuple[Path, bool]]:
    """Every visible file and folder below a folder, sorted within each, and whether it is a folder. Links are followed, except
    those to a folder that they are in: these would give the same images again and again, as of other classes.

    Raises:
        OSError: if a folder cannot be read.
    """
    left_out = left_out or LeftOut()
    todo = [(root, [Path(os.path.realpath(root))])]  # a folder, and the real paths of it and of those above it
    while todo:
        folder, above = todo.pop()
        inner: list[tuple[Path, list[Path]]] = []
        files: list[Path] = []
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path, is_folder = folder / entry.name, _is_folder(entry)
                if not _is_visible(entry.name):
                    left_out.add_invisible(path.relative_to(root), is_folder)
                    continue
                if not is_folder:
                    files.append(path)
                    continue
                real = Path(os.path.realpath(path)) if entry.is_symlink() else above[-1] / entry.name
                if any(folder.is_relative_to(real) for folder in above):
                    left_out.add_link(path.relative_to(root))
                else:
                    inner.append((path, [*above, real]))
        yield from ((path, True) for path, _ in inner)
        yield from ((path, False) for path in files)
        todo += reversed(inner)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to where nothing may be read: reading it as a file says so
        return False


def stamp(root: Path, counts: Callable[[PurePath], bool] = is_image) -> Stamp:
    """Number, bytes, latest time and a hash of names, sizes and times of the files in a folder for which `counts` is true, or
    of an archive. Reads no content.

    Raises:
        OSError: if there is no such file.
    """
    return _stamp(root, _files(root, counts))[0]


def _stamp(root: Path, files: list[Path]) -> tuple[Stamp, int]:
    """`stamp`, and the earliest time, ns."""
    digest, total, times = hashlib.sha256(), 0, []
    for file in files:
        status = file.stat()
        total += status.st_size
        times.append(status.st_mtime_ns)
        digest.update(os.fsencode(f"{file.relative_to(root).as_posix()}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    now: Stamp = {"files": len(files), "bytes": total, "sha256": digest.hexdigest(), "newest": max(times, default=0)}
    return now, min(times, default=0)


def _files(root: Path, counts: Callable[[PurePath], bool]) -> list[Path]:
    return [file for file, is_folder in walk(root) if not is_folder and counts(file)] if root.is_dir() else [root]


def content(root: Path, counts: Callable[[PurePath], bool] = is_image) -> str:
    """A hash of the names and bytes of the same files, for a `Stamp`.

    Raises:
        OSError: if a file cannot be read.
    """
    digest = hashlib.sha256()
    for file in _files(root, counts):
        with file.open("rb") as opened:
            of_file = hashlib.file_digest(opened, "sha256").hexdigest()
        digest.update(os.fsencode(f"{file.relative_to(root).as_posix()}\0{of_file}\n"))
    return digest.hexdigest()


def sample(root: Path, counts: Callable[[PurePath], bool] = is_image) -> str:
    """A hash of the names and sizes of the same files, and of the ends of 256 of them, evenly spread: for a `Stamp` of files
    that no job reads as a whole.

    Raises:
        OSError: if a file cannot be read.
    """
    return _sample(root, _files(root, counts))


def _sample(root: Path, files: list[Path]) -> str:
    digest, read = hashlib.sha256(), {i * len(files) // _SAMPLE for i in range(_SAMPLE)}
    for number, file in enumerate(files):
        size = file.stat().st_size
        digest.update(os.fsencode(f"{file.relative_to(root).as_posix()}\0{size}\n"))
        if number in read:
            with file.open("rb") as opened:
                digest.update(opened.read(_PART))
                opened.seek(max(_PART, size - _PART))
                digest.update(opened.read(_PART))
    return digest.hexdigest()


def change(before: Stamp, root: Path, counts: Callable[[PurePath], bool] = is_image) -> str:
    """How the files differ from an earlier stamp, in words; "" if they do not.

    Files that have other times and the same content, as copies have, do not differ. Where only a sample was read, all must be
    newer than the newest was: one that has been edited in its place is no copy, and a sample could miss it.

    Raises:
        OSError: if there is no such file, or it cannot be read.
    """
    files = _files(root, counts)
    now, oldest = _stamp(root, files)
    if now["bytes"] == before.get("bytes") and now["sha256"] != before.get("sha256"):
        if "content" in before:
            return "" if content(root, counts) == before["content"] else _OTHER_CONTENT
        if "sample" in before and oldest > before["newest"]:
            return "" if _sample(root, files) == before["sample"] else _OTHER_CONTENT
    return difference(before, now)


def stamp_if_there(
    root: Path, counts: Callable[[PurePath], bool] = is_image, read: Literal["none", "some", "all"] = "none"
) -> Stamp | None:
    """`stamp`, with the `sample` or the `content` of the files as asked for, or None if there is no such folder or archive.
    Raises UserError if it cannot be read."""
    try:
        if not is_there(root):
            return None
        now = stamp(root, counts)
        if read == "some":
            now["sample"] = sample(root, counts)
        elif read == "all":
            now["content"] = content(root, counts)
        return now
    except OSError as error:
        raise unreadable(root, error) from None


def change_if_there(before: Stamp, root: Path, counts: Callable[[PurePath], bool] = is_image) -> str:
    """`change`, or "" if the files are gone. Raises UserError if they cannot be read."""
    try:
        return change(before, root, counts) if is_there(root) else ""
    except OSError as error:
        raise unreadable(root, error) from None


def difference(before: Stamp, now: Stamp) -> str:
    """The difference of two stamps in words; "" if there is none. Only entries that both have are compared."""
    if {**before, **now} == before:
        return ""
    old, new = (
        f"{state['files']} files" + (f" of {state['bytes']} bytes" if "bytes" in now else "") for state in (before, now)
    )
    return "expected the same names and times (cp -a keeps times), got others" if old == new else f"expected {old}, got {new}"


def count_images(root: Path) -> int:
    """Number of images in a folder, by their names alone.

    Raises:
        OSError: if there is no such folder, or one in it cannot be read.
    """
    return sum(not is_folder and is_image(file) for file, is_folder in walk(root))
