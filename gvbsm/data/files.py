"""Files of a folder or of an archive, read in place: nothing is ever extracted to disk."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor

from gvbsm.data.archives import ARCHIVES, read_members
from gvbsm.data.first_bytes import HEAD, IMAGES, PACKED, TAR, ZIP, check_folders_above, what_file, what_it_is
from gvbsm.data.folders import LeftOut, is_there, walk
from gvbsm.errors import UserError, first_line, unreadable

_NAMED = 5  # files in a message
_LONGEST = 100  # longest ratio of sides: resizing the shorter side enlarges the longer side with it
_FORMATS = ("PNG", "JPEG", "BMP", "WEBP", "PPM", "TIFF", "GIF")  # for other formats PIL may start programs


_UPRIGHT = {  # by EXIF's orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Entry(NamedTuple):
    """A file below the root, or a folder (`read` None)."""

    path: PurePosixPath
    read: Callable[[], bytes] | None
    file: Path | None = None  # the file itself, unless it is a member of an archive


def check_one_folder(root: Path, what: str, above: set[str]) -> None:
    """Raise UserError if `what` is in several folders (`above`) below the root: several data sets would be mixed."""
    if len(above) > 1:
        first, second = sorted(above)[:2]
        raise UserError(f"{root}: expected {what} in one folder, got some in {first!r} and {second!r}; name one of them")


def read_entries(root: Path, quiet: bool = False) -> Iterator[Entry]:
    """Every visible entry of a folder (symbolic links are followed), or of a .zip or .tar[.gz|.xz] archive, as stored.

    A last line on stderr says what was left out, unless `quiet`; see `walk` and `read_members`.

    Raises:
        UserError: if there is neither, a folder cannot be read, or the archive is not one that `read_members` reads.
    """
    left_out = LeftOut()
    yield from _entries(root, left_out)
    if str(left_out) and not quiet:
        sys.stderr.write(f"{UserError(f'{root}: left out, {left_out}')}\n")  # as in errors, names may hold any character


def _entries(root: Path, left_out: LeftOut) -> Iterator[Entry]:
    if is_there(root) and root.is_dir():
        try:
            for file, is_folder in walk(root, left_out):
                inner = PurePosixPath(file.relative_to(root).as_posix())
                yield Entry(inner, None if is_folder else partial(read_file, file), file)
        except OSError as error:
            raise unreadable(root, error) from None
        return
    check_folders_above(root)
    if not root.is_file():
        raise UserError(f"{root}: expected a folder or an archive ({', '.join(ARCHIVES)}), got nothing there; put it there")
    if not root.name.lower().endswith(ARCHIVES):
        what, remedy = what_file(root) or ("another file", "")
        rename = "give it such a name" if what in (ZIP, TAR, *PACKED) else "name one"
        raise UserError(f"{root}: expected a folder or an archive ({', '.join(ARCHIVES)}), got {what}; {remedy or rename}")
    for path, content in read_members(root, left_out):
        if not left_out.add_invisible(path, content is None):
            yield Entry(path, None if content is None else partial(bytes, content))


def or_archives(root: Path) -> str:
    """The end of the message that there are no images below `root`: the archives that may hold them, if there are any."""
    archives = [entry.path for entry in read_entries(root, quiet=True) if entry.path.name.lower().endswith(ARCHIVES)]
    return f"none, but {min(archives)}; unpack such archives" if archives else "none; put the images there"


def read_file(file: Path) -> bytes:
    """The content of a file. Raises UserError if it cannot be read."""
    try:
        return file.read_bytes()
    except OSError as error:
        if file.is_dir():
            raise UserError(f"{file}: expected a file, got a folder; name the file in it") from None
        raise unreadable(file, error) from None


class Unreadable:
    """The images that cannot be read, so that an error names more than the first of them."""

    def __init__(self) -> None:
        self._first = ""
        self._names: list[str] = []

    @contextlib.contextmanager
    def noting(self, where: str) -> Iterator[None]:
        """Note a UserError of the block, and go on after it."""
        try:
            yield
        except UserError as error:
            self._first = self._first or str(error)
            self._names.append(where)

    def check(self) -> None:
        """Raise UserError with the first error, the names of a few more files, and their number, if there was any."""
        (first, self._first), (names, self._names) = (self._first, ""), (self._names, [])  # none, of the images that follow
        if len(names) == 1:
            raise UserError(first)
        if names:
            others = ", ".join(names[1:_NAMED]) + ", ..." * (len(names) > _NAMED)
            raise UserError(f"{first} ({len(names)} files in all: then {others})")


@contextlib.contextmanager
def decoding(where: str, content: bytes | None = None) -> Iterator[None]:
    """Turn whatever is raised while an image is decoded into a UserError: for damaged files, that may be anything. The file's
    `content` tells what it is if it is no image."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        remedy, reason = "", first_line(error)
        if isinstance(error, UnidentifiedImageError):
            reason, remedy = _other_content(b"?" if content is None else content)
        elif str(error).strip() and not isinstance(error, (OSError, ValueError, SyntaxError, Image.DecompressionBombError)):
            reason = f"{type(error).__name__}: {reason}"  # not meant for readers: the text alone may say nothing
        raise UserError(f"{where}: expected an image, got {reason}; {remedy or 'replace or remove the file'}") from None


def _other_content(content: bytes) -> tuple[str, str]:
    file_kind = what_it_is(content[:HEAD])
    if file_kind is None:
        return "no format that is known", ""
    return (f"{file_kind.what} that is damaged", "") if file_kind.what in IMAGES else file_kind


def open_image(where: str, content: bytes, mode: str) -> Image.Image:
    """An image file, decoded, turned upright and converted to PIL's `mode`: "L" for grey, "RGB". 16-bit grey becomes 8-bit.

    Raises:
        UserError: if it is no image, has 32 bits a pixel (of unknown range), or has sides of more than 100 : 1.
    """
    with decoding(where, content), Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        if image.mode == "F" or (image.mode == "I" and image.format == "TIFF"):
            raise UserError(f"{where}: expected 8 or 16 bits a pixel of a channel, got 32; convert or remove the file")
        if max(image.size) > _LONGEST * min(image.size):
            got = "{} x {} px".format(*image.size)
            raise UserError(f"{where}: expected sides of at most {_LONGEST} : 1, got {got}; cut or remove the file")
        image.load()
        turn = _UPRIGHT.get(_orientation(image))
        upright = image if turn is None else image.transpose(turn)
        if upright.mode.startswith("I"):  # PIL would clip 16 bits at 255 instead of scaling them
            upright = Image.fromarray((np.asarray(upright).clip(0, 65535) // 257).astype(np.uint8))
        return upright if upright.mode == mode else upright.convert(mode)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation, of a loaded image; 1 (upright) if there is none. The other tags are neither read nor written:
    `ImageOps.exif_transpose` writes them all anew, and fails at many that cameras and editors leave."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # damaged EXIF, at which PIL raises many kinds; the image itself is whole
        return 1


def square(image: Image.Image, size: int, resize: int) -> Image.Image:
    """The shorter side resized to `resize`, the central `size` x `size` px cut out, both rounded as torchvision does."""
    width, height = image.size
    short = min(width, height)
    if short != resize:
        width, height = resize * width // short, resize * height // short
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 (C,H,W)."""
    pixels = torch.from_numpy(np.array(image))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def colour_mode(what: str, channels: int) -> str:
    """PIL's mode for a number of channels. Raises UserError unless it is 1 or 3."""
    if channels not in (1, 3):
        raise UserError(f"{what}: expected 1 (grey) or 3 (RGB) channels, got {channels} in mean and std; correct the row")
    return "L" if channels == 1 else "RGB"
