"""Official files: downloaded under a temporary name, and checked."""

from __future__ import annotations

import glob
import hashlib
import shutil
import tempfile
import time
from http.client import HTTPException
from pathlib import Path

from gvbsm.data.first_bytes import PACKED, TAR, ZIP, what_file
from gvbsm.data.folders import is_there
from gvbsm.errors import UserError

_DAY = 86_400  # seconds


def ensure(what: str, path: Path, url: str, md5: str, hint: str = "") -> None:
    """Check the official file at `path`, or download it if there is none.

    Raises:
        UserError: if the file is a different one, or cannot be downloaded (this message ends with `hint`).
    """
    if not is_there(path):
        download(what, path, url, md5, hint)
        return
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise UserError(f"{what}: {path}: cannot be read: {error.strerror}; put the file from {url} there") from None
    if digest != md5:
        found = what_file(path)
        got = f"{digest} ({found.what})" if found and found.what not in (ZIP, TAR, *PACKED) else digest
        raise UserError(f"{what}: {path}: expected MD5 {md5}, got {got}; delete it, or put the file from {url} there")


def download(what: str, path: Path, url: str, md5: str, hint: str = "") -> None:
    """Download a file into a temporary folder of this process, then move it: other processes may download it too.

    Raises:
        UserError: if it cannot be downloaded or has another MD5 sum; the message ends with `hint`.
    """
    from torchvision.datasets.utils import download_url

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_left(path)
        with tempfile.TemporaryDirectory(".part", f".{path.name}.", path.parent) as folder:
            download_url(url, folder, path.name, md5)
            Path(folder, path.name).replace(path)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"{what}: expected {path} (MD5 {md5}), which could not be had: {reason}; put the file from {url} there{hint}"
        ) from None


def _remove_left(path: Path) -> None:
    """Remove the temporary folders of killed processes, those older than a day: no download takes that long."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        if time.time() - folder.stat().st_mtime > _DAY:
            shutil.rmtree(folder, ignore_errors=True)
