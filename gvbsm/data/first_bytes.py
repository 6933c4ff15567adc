"""What a file is by its first bytes, for messages: names and endings are often wrong, and downloads often fail quietly."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import NamedTuple

from gvbsm.errors import UserError, unreadable

HEAD = 1024  # bytes that are enough
_QUOTED = 40  # characters of a text in a message
_POINTERS = {  # small texts that a version control puts in the place of large files
    b"version https://git-lfs.github.com/spec/": ("a Git LFS pointer", "fetch the file itself with `git lfs pull`"),
    b"version https://hawser.github.com/spec/": ("a Git LFS pointer", "fetch the file itself with `git lfs pull`"),
    b"/annex/objects/": ("a git-annex pointer", "fetch the file itself with `git annex get`"),
}
IMAGES = ("a PNG image", "a JPEG image", "a GIF image", "a BMP image", "a WebP image", "a TIFF image")  # that are read
ZIP, TAR, SAFETENSORS, PICKLE = "a zip archive", "a tar archive", "a safetensors file", "a pickle"
PACKED = ("a gzip file", "an xz file", "a bzip2 file")
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (  # offset, bytes
    (0, b"\x89PNG\r\n\x1a\n", "a PNG image"),
    (0, b"\xff\xd8\xff", "a JPEG image"),
    (0, b"GIF8", "a GIF image"),
    (8, b"WEBP", "a WebP image"),
    (0, b"II*\0", "a TIFF image"),
    (0, b"MM\0*", "a TIFF image"),
    (4, b"ftyphei", "a HEIC photograph"),
    (4, b"ftypmif1", "a HEIC photograph"),
    (4, b"ftypavif", "an AVIF image"),
    (4, b"ftyp", "a video"),
    (0, b"\xff\x0a", "a JPEG XL image"),
    (4, b"JXL ", "a JPEG XL image"),
    (4, b"jP  \r\n", "a JPEG 2000 image"),
    (0, b"\0\0\x01\0", "an icon"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"%PDF-", "a PDF document"),
    (0, b"%!PS", "a PostScript drawing"),
    (0, b"PK\x03\x04", ZIP),
    (0, b"PK\x05\x06", ZIP),
    (257, b"ustar", TAR),
    (0, b"\x1f\x8b", "a gzip file"),
    (0, b"\xfd7zXZ\0", "an xz file"),
    (0, b"BZh", "a bzip2 file"),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (0, b"Rar!", "a RAR archive"),
    (0, b"\x93NUMPY", "a NumPy array"),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
    (0, b"MATLAB ", "a MATLAB file"),
    (0, b"PAR1", "a Parquet table"),
    (0, b"ARROW1", "an Arrow table"),
    (0, b"SQLite format 3", "an SQLite database"),
    (0, b"\x7fELF", "a program"),
    (0, b"GGUF", "a GGUF model"),
)
# Marks at the beginning of texts, and their encodings. UTF-32 first: its mark for little-endian begins with that of UTF-16.
BOMS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]")
_DECLARATION = re.compile(r"<\?xml.*?\?>\s*", re.DOTALL)


class Found(NamedTuple):
    """What a file is, with its article, and what to do; "" if that depends on what was expected."""

    what: str
    remedy: str = ""


def what_it_is(head: bytes) -> Found | None:
    """What a file with these first bytes (`HEAD` will do) is; None if they do not say."""
    if not head:
        return Found("an empty file", "fetch it again")
    for start, (what, remedy) in _POINTERS.items():
        if head.startswith(start):
            return Found(what, remedy)
    for offset, signature, what in _SIGNATURES:
        if head.startswith(signature, offset):
            return Found(what)
    if head.startswith(b"BM") and head[6:10] == bytes(4):
        return Found("a BMP image")
    if head[:1] == b"\x80" and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return Found(PICKLE)
    if head[8:10] in (b'{"', b"{ ", b"{}") and int.from_bytes(head[:8], "little") < 2**30:
        return Found(SAFETENSORS)
    text = _as_text(head)
    return None if text is None else _text(text)


def what_file(path: Path) -> Found | None:
    """What the file at a path is. Raises UserError if it cannot be read."""
    if path.is_dir():
        return Found("a folder", "name the file in it")
    try:
        with path.open("rb") as file:
            return what_it_is(file.read(HEAD))
    except OSError as error:
        raise unreadable(path, error) from None


def check_folders_above(path: Path) -> None:
    """Raise UserError if something above a path is a file, such as an archive that was not unpacked."""
    for above in path.parents:
        if above.is_file():
            file_kind = what_file(above)
            what, remedy = file_kind or Found("a file")
            unpack = "unpack it" if what in (ZIP, TAR, *PACKED) else "correct the path"
            raise UserError(f"{above}: expected a folder, got {what}; {remedy or unpack}")


def _as_text(head: bytes) -> str | None:
    """The text that the bytes are, without what is cut at the end; None if they are no text."""
    for bom, encoding in BOMS.items():
        if head.startswith(bom):
            text = codecs.getincrementaldecoder(encoding)("replace").decode(head[len(bom) :])
            return None if _CONTROL.search(text) else text
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None
    return None if _CONTROL.search(text) else text


def _text(text: str) -> Found:
    start = text.lstrip().lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<body")) or (start.startswith("<") and "<html" in start):
        return Found("a web page (HTML)", "fetch the file itself, not the page about it")
    if start.startswith("<") and "<svg" in start:
        return Found("an SVG drawing")
    kind = "an XML text" if start.startswith("<?xml") else "a JSON text" if start.startswith(("{", "[")) else "a text"
    beginning = " ".join(_DECLARATION.sub("", text.lstrip(), count=1)[: 2 * _QUOTED].split())[:_QUOTED]
    return Found(f"{kind} that begins with {beginning!r}" if beginning else "a text of blanks alone", "fetch the file itself")
