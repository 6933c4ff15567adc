"""Archives, read in place member by member: nothing is extracted to disk, and harmful members are refused."""

from __future__ import annotations

import lzma
import re
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TypeVar

from gvbsm.data.first_bytes import PACKED, TAR, ZIP, what_file
from gvbsm.data.folders import LeftOut
from gvbsm.errors import UserError, unreadable

ARCHIVES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.xz")
_LARGEST = 512 * 2**20  # bytes of one member; no image is larger, a decompression bomb is
# A bomb unpacks to a thousand times its size or more. The ratio of photographs is near 1; that of drawings as BMP or PPM, with
# some all-black images among them, is below a hundred. Less than the floor is harmless at any ratio.
_RATIO, _FLOOR = 200, 256 * 2**20
_PADDING = 2**24  # largest number of bytes after a tar's end
_LONGEST = 2**20  # bytes of a tar's header of long names, which tarfile reads whole
_NAMES = {tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")

_Info = TypeVar("_Info", tarfile.TarInfo, zipfile.ZipInfo)
Member = tuple[PurePosixPath, bytes | None]  # name, content; None for a folder


def read_members(root: Path, left_out: LeftOut | None = None) -> Iterator[Member]:
    """Every member of a .zip or .tar[.gz|.xz] archive, as stored; of a name that it holds twice, the last one, as when it is
    unpacked.

    Raises:
        UserError: if it is damaged, unpacks to too many bytes, or a member is no plain file or folder below the root.
    """
    try:
        members = _zip_members if root.suffix.lower() == ".zip" else _tar_members
        yield from members(root, left_out or LeftOut())
    except PermissionError as error:
        raise unreadable(root, error) from None
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError, OSError) as error:
        _check_kind(root)
        raise UserError(f"{root}: damaged archive: {error}; fetch it again") from None
    except (NotImplementedError, RuntimeError) as error:  # zipfile's errors for encryption and rare compressions
        raise UserError(f"{root}: {error}; make the archive anew, without encryption") from None


def _check_kind(root: Path) -> None:
    """Raise UserError if the file is another one than its name says."""
    file_kind, is_zip = what_file(root), root.suffix.lower() == ".zip"
    if file_kind and file_kind.what not in ((ZIP,) if is_zip else (TAR, *PACKED)):
        rename = "give it the ending of what it is" if file_kind.what in (ZIP, TAR, *PACKED) else "put the right file there"
        kind = ZIP if is_zip else TAR
        raise UserError(f"{root}: expected {kind}, as its name says, got {file_kind.what}; {file_kind.remedy or rename}")


class _Header(tarfile.TarInfo):
    """A member's header; refused if its size is damaged, since tarfile would read or skip that many bytes."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """The header in a block of an archive. Raises TarError for a size that no header has."""
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.type in _NAMES and header.size > _LONGEST):
            raise tarfile.TarError(f"a header of {header.size} bytes")
        return header

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> _Header:  # type: ignore[override]
        """The next header. Raises TarError if there is none and no end mark either: tarfile alone would accept such a
        truncated archive."""
        try:
            return super().fromtarfile(archive)
        except tarfile.HeaderError as error:
            if isinstance(error, tarfile.EOFHeaderError):  # type: ignore[attr-defined]  # the end mark
                raise
            raise tarfile.TarError(f"at byte {archive.offset}: {error or 'no end'}") from None


def _tar_members(root: Path, left_out: LeftOut) -> Iterator[Member]:
    packed = root.stat().st_size
    with tarfile.open(root, tarinfo=_Header) as archive:
        # All headers first, although a compressed archive is unpacked twice for that: `tar -r` puts the new file behind.
        members: list[tuple[PurePosixPath, tarfile.TarInfo]] = []
        for member in archive:
            path = _inner(root, member.name)
            if member.isfile() and not member.issparse():
                # The end of its content in the unpacked stream, which includes headers and skipped members.
                _check_size(root, path, member.size, member.offset_data + member.size, packed)
            elif not member.isdir():
                raise _no_file(root, path)
            members.append((path, member))
        _read_to_end(archive)
        for path, member in _last_of_a_name(members, left_out):
            yield path, None if member.isdir() else archive.extractfile(member).read()  # type: ignore[union-attr]


def _last_of_a_name(members: list[tuple[PurePosixPath, _Info]], left_out: LeftOut) -> Iterator[tuple[PurePosixPath, _Info]]:
    last = {path: number for number, (path, _) in enumerate(members)}
    for number, (path, member) in enumerate(members):
        if last[path] == number:
            yield path, member
        elif not (member.is_dir() if isinstance(member, zipfile.ZipInfo) else member.isdir()):
            left_out.add_older(path)


def _read_to_end(archive: tarfile.TarFile) -> None:
    """Read what follows the last member, which must be padding: gzip and xz compare their checksums only at the end."""
    read = 0
    while chunk := archive.fileobj.read(2**20):  # type: ignore[union-attr]
        read += len(chunk)
        if read > _PADDING:
            raise tarfile.TarError(f"more than {_PADDING} bytes behind its end")


def _zip_members(root: Path, left_out: LeftOut) -> Iterator[Member]:
    packed, unpacked = root.stat().st_size, 0
    with zipfile.ZipFile(root) as archive:
        for member in archive.infolist():
            _inner(root, member.orig_filename)  # as stored: zipfile cuts a name at NUL
        members = [(_inner(root, member.filename), member) for member in archive.infolist()]
        for path, member in _last_of_a_name(members, left_out):
            if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _no_file(root, path)
            if member.is_dir():
                yield path, None
                continue
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # bzip2 can turn a few kilobytes into gigabytes, and zipfile does not limit that.
                raise UserError(f"{root}: {path}: expected deflate or no compression, got another; make the archive anew")
            unpacked += member.file_size
            _check_size(root, path, member.file_size, member.file_size, member.compress_size)
            _check_size(root, path, member.file_size, unpacked, packed)
            with archive.open(member) as file:
                content = file.read(member.file_size)  # at most the checked size; a longer content fails the CRC
            if len(content) != member.file_size:
                raise zipfile.BadZipFile(f"{path}: expected {member.file_size} bytes, got {len(content)}")
            yield path, content


def _inner(root: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    windows = PureWindowsPath(name)
    if windows.anchor or _CONTROL.search(name) or path.is_absolute() or ".." in (*path.parts, *windows.parts):
        raise UserError(f"{root}: {name!r}: expected names below the archive's own folder; make the archive without it")
    if "\\" in name:
        raise UserError(
            f"{root}: {name!r}: expected / between folders, got backslashes, as some programs for Windows write; make the "
            "archive anew with another program"
        )
    return path


def _no_file(root: Path, path: PurePosixPath) -> UserError:
    return UserError(f"{root}: {path}: expected plain files, got a link or device; make the archive without it")


def _check_size(root: Path, path: PurePosixPath, size: int, unpacked: int, packed: int) -> None:
    """Raise UserError if a member of `size` bytes is too large, or `packed` bytes have become too many `unpacked` ones."""
    if size > _LARGEST:
        raise UserError(f"{root}: {path}: expected at most {_LARGEST} bytes in a file, got {size}; make the archive without it")
    if unpacked > max(_FLOOR, _RATIO * packed):
        raise UserError(
            f"{root}: {path}: expected at most {_RATIO} times the packed size ({packed} bytes), got {unpacked} bytes, as of a "
            "decompression bomb; unpack it yourself if you trust it"
        )
