"""Atomic writes of files, and tensors in files. No pickle: tensors are safetensors."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gvbsm.errors import unwritable
from gvbsm.store.keys import canonical

if TYPE_CHECKING:
    import torch
    from torch import Tensor


@contextlib.contextmanager
def _replacing(out: Path, durable: bool = True) -> Iterator[Path]:
    """A temporary file beside `out` that replaces `out` if the block ends without an error, synced to disk if `durable`.

    Raises:
        UserError: if the folder cannot be written or the disk is full.
    """
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(out)
    except OSError as error:
        raise unwritable(out, error) from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(out: Path, text: str, durable: bool = True) -> None:
    """Write a text file (UTF-8) atomically. Raises UserError if that is impossible."""
    write_bytes(out, text.encode(), durable)


def write_bytes(out: Path, content: bytes, durable: bool = True) -> None:
    """Write a file atomically, and wait for the disk if `durable`. Raises UserError if that is impossible."""
    with _replacing(out, durable) as temporary:
        temporary.write_bytes(content)


def save_tensors(out: Path, tensors: dict[str, Tensor], metadata: Any) -> None:
    """Write tensors and JSON-able metadata as one safetensors file, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with _replacing(out) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # the usual mode; the library's own lets only the user read
        try:
            # One metadata entry: the library does not promise an order for several, and files must repeat exactly.
            save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, {"gvbsm": canonical(metadata)})
        except SafetensorError as error:
            raise OSError(str(error)) from None
        temporary.chmod(mode)


def parse_json(text: str | bytes) -> Any:
    """The value in a JSON text. Raises ValueError for any other text, one that is nested too deeply for Python included."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def load_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Tensors (memory-mapped) and metadata of a file that `save_tensors` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return tensors, parse_json((file.metadata() or {}).get("gvbsm", "null"))


def mapped_tensor(file: Path, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """A tensor mapped to a raw file: writes to the tensor go to the file. New bytes are zeros.

    Raises:
        UserError: if the file cannot be written or the disk is full.
    """
    import torch

    count = math.prod(shape)
    size = count * dtype.itemsize
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as opened:
            opened.truncate(size)
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(opened.fileno(), 0, size)  # or else a full disk would crash the process later
        return torch.from_file(str(file), shared=True, size=count, dtype=dtype).view(shape)
    except OSError as error:
        raise unwritable(file, error) from None


def nameless_tensor(folder: Path | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """Zeros mapped to a new, unlinked file in `folder` (or the system's temporary folder), which ends with the process.

    Raises:
        UserError: if no file can be made there or the disk is full.
    """
    try:
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(suffix=".raw", dir=folder)
        os.close(descriptor)
    except OSError as error:
        raise unwritable(Path(folder or tempfile.gettempdir()) / "any", error) from None
    try:
        return mapped_tensor(Path(name), shape, dtype)
    finally:
        Path(name).unlink(missing_ok=True)  # the mapping outlives the name


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
