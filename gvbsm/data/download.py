"""Official files: downloaded under another name, gone on with after a break, and checked."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from gvbsm.data.first_bytes import PACKED, TAR, ZIP, what_file
from gvbsm.data.folders import is_there
from gvbsm.errors import UserError, first_line

_CHUNK = 2**18  # bytes
_PATIENCE = 60  # seconds without a byte, after which a connection counts as broken


def ensure(what: str, path: Path, url: str, md5: str, hint: str = "") -> None:
    """Check the official file at `path`, or download it if there is none.

    Raises:
        UserError: if the file is a different one, or cannot be downloaded (this message ends with `hint`).
    """
    if not is_there(path):
        download(what, path, url, md5, hint)
        return
    try:
        digest = _md5(path)
    except OSError as error:
        raise UserError(f"{what}: {path}: cannot be read: {error.strerror}; put the file from {url} there") from None
    if digest != md5:
        file_kind = what_file(path)
        got = f"{digest} ({file_kind.what})" if file_kind and file_kind.what not in (ZIP, TAR, *PACKED) else digest
        raise UserError(f"{what}: {path}: expected MD5 {md5}, got {got}; delete it, or put the file from {url} there")


def download(what: str, path: Path, url: str, md5: str, hint: str = "") -> None:
    """Download a file to `.<name>.part` beside it, then rename it. What a break leaves there is not downloaded again.

    Of several processes one downloads, and the others wait for it.

    Raises:
        UserError: if it cannot be downloaded or has another MD5 sum; the message ends with `hint`.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _held(part) as file:
            if is_there(path):  # downloaded by another process in the meantime
                part.unlink()
                return
            _fetch_checked(url, file, part, md5)
            part.replace(path)
    except (OSError, RuntimeError, ValueError, HTTPException) as error:
        reason = first_line(error)
        left = part.stat().st_size if part.exists() else 0
        again = f"repeat the command to go on after {left:,} bytes, or " if left else ""
        raise UserError(
            f"{what}: expected {path} (MD5 {md5}), which could not be had: {reason}; {again}put the file from {url} there{hint}"
        ) from None


@contextlib.contextmanager
def _held(part: Path) -> Iterator[BinaryIO]:
    """The part of a file, opened for appending and locked. An empty one is removed afterwards.

    Not by filelock, which locks a second file: it would stay beside the data, where another user may not be allowed to open it.
    """
    while True:
        with part.open("ab") as file:
            with contextlib.suppress(OSError):  # file systems without locks: two downloads at once fail the MD5 sum
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(file, part):  # renamed or removed by another process, which held the lock until now
                continue
            try:
                yield file
            finally:
                if _is_at(file, part) and part.stat().st_size == 0:
                    part.unlink()
            return


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _fetch_checked(url: str, file: BinaryIO, part: Path, md5: str) -> None:
    """Complete a part. If that gives another file, since the part was of an older one, it is fetched anew from the beginning.

    Raises:
        ValueError: if the file has another MD5 sum; nothing is left of it then.
    """
    while True:
        begun = _size(file)
        _fetch(url, file, part.name[1:].removesuffix(".part"))
        digest = _md5(part)
        if digest == md5:
            return
        file.truncate(0)
        if not begun:
            raise ValueError(f"the file there has MD5 {digest}")


def _fetch(url: str, file: BinaryIO, name: str) -> None:
    """Append the rest of a file. After a broken connection it goes on, as long as every connection gives something."""
    while True:
        before = _size(file)
        try:
            _append(url, file, name)
            return
        except urllib.error.HTTPError as error:
            if before and error.code == 416:  # there is no rest
                return
            raise
        except (OSError, HTTPException):
            if _size(file) <= before:
                raise


def _append(url: str, file: BinaryIO, name: str) -> None:
    begun = _size(file)
    headers = {"User-Agent": "gvbsm"} | ({"Range": f"bytes={begun}-"} if begun else {})
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_PATIENCE) as response:
        if begun and response.status != 206:  # a server that gives whole files alone
            file.truncate(0)
            begun = 0
        length = response.headers["Content-Length"]
        total = begun + int(length) if length else None
        seconds = 1 if sys.stderr.isatty() else 30  # from line to line
        with tqdm(desc=name, total=total, initial=begun, unit="B", unit_scale=True, mininterval=seconds) as bar:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
        file.flush()
    if total is not None and _size(file) < total:
        raise ConnectionError(f"{_size(file):,} of {total:,} bytes came")


def _size(file: BinaryIO) -> int:
    file.flush()
    return os.fstat(file.fileno()).st_size


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
