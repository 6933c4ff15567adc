"""Files of a folder or of an archive, read in place: nothing is ever extracted to disk."""

from __future__ import annotations

import io
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from gvbsm.errors import UserError

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz")
_IMAGES = {".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".tif", ".tiff", ".gif"}
_LARGEST = 512 * 2**20  # bytes of one member; no image is larger, a decompression bomb is


class Entry(NamedTuple):
    """A file, or a folder (content None), below the root."""

    path: PurePosixPath
    content: bytes | None


def is_image(path: PurePosixPath) -> bool:
    """Whether a file's name says that it is an image; hidden files are none."""
    return path.suffix.lower() in _IMAGES and not path.name.startswith(".")


def read_entries(root: Path) -> Iterator[Entry]:
    """Every entry of a folder, or of a .zip or .tar[.gz|.xz] archive, in the order they are stored in.

    Raises:
        UserError: if there is neither, the archive is damaged, or a member of it is not a plain file below the root.
    """
    if root.is_dir():
        for path in sorted(root.rglob("*")):
            inner = PurePosixPath(path.relative_to(root).as_posix())
            wanted = path.is_file() and (is_image(inner) or inner.suffix == ".txt")
            yield Entry(inner, None if path.is_dir() else path.read_bytes() if wanted else b"")
        return
    if not root.is_file():
        raise UserError(f"{root}: expected a folder or an archive ({', '.join(ARCHIVES)}), got nothing there; put it there")
    if not root.name.lower().endswith(ARCHIVES):
        raise UserError(f"{root}: expected a folder or an archive ({', '.join(ARCHIVES)}), got another file; name one")
    try:
        yield from _zip_entries(root) if root.suffix.lower() == ".zip" else _tar_entries(root)
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        raise UserError(f"{root}: damaged archive: {error}; fetch it again") from None


def decode_image(where: str, content: bytes, size: int, mode: str) -> Tensor:
    """An image file as uint8 (C,S,S): turned upright, its shorter side resized to `size`, the centre cut out.

    `mode` is PIL's: "L" for grey, "RGB". 16-bit grey is scaled to 8 bits.

    Raises:
        UserError: if it is no image.
    """
    try:
        with Image.open(io.BytesIO(content)) as image:
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # PIL would clip 16 bits at 255 instead of scaling them
                upright = Image.fromarray((np.asarray(upright).clip(0, 65535) // 257).astype(np.uint8))
            square = ImageOps.fit(upright.convert(mode), (size, size), Image.Resampling.BILINEAR)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise UserError(f"{where}: expected an image, got {type(error).__name__}; replace or remove the file") from None
    pixels = torch.from_numpy(np.array(square))
    return pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def colour_mode(what: str, channels: int) -> str:
    """PIL's mode for a number of channels. Raises UserError unless it is 1 or 3."""
    if channels not in (1, 3):
        raise UserError(f"{what}: expected 1 (grey) or 3 (RGB) channels, got {channels} in mean and std; correct the row")
    return "L" if channels == 1 else "RGB"


def _tar_entries(root: Path) -> Iterator[Entry]:
    with tarfile.open(root) as archive:
        for member in archive:
            path = _inner(root, member.name)
            if member.isdir():
                yield Entry(path, None)
            elif member.isfile():
                _check_size(root, path, member.size)
                file = archive.extractfile(member)
                yield Entry(path, file.read() if file else b"")
            else:
                raise UserError(f"{root}: {path}: expected plain files, got a link or device; make the archive without it")


def _zip_entries(root: Path) -> Iterator[Entry]:
    with zipfile.ZipFile(root) as archive:
        for member in archive.infolist():
            path = _inner(root, member.filename)
            _check_size(root, path, member.file_size)
            yield Entry(path, None if member.is_dir() else archive.read(member))


def _inner(root: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{root}: {name}: expected names below the archive's own folder; make the archive without it")
    return path


def _check_size(root: Path, path: PurePosixPath, size: int) -> None:
    if size > _LARGEST:
        raise UserError(f"{root}: {path}: expected at most {_LARGEST} bytes in a file, got {size}; make the archive without it")
