"""Receipts: what an artifact was made from and how its bytes are known again, and the check of both."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from gvbsm.errors import UserError
from gvbsm.store.files import file_hash, write_text
from gvbsm.store.keys import key
from gvbsm.store.spec import Json

KEYED = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)-(?P<key>[0-9a-f]{10})")  # the name of a file of the store, without its suffix
_RECEIPT = {"spec": dict, "bytes": int, "sha256": str, "inputs": dict}  # what is read of every receipt


class Receipt(TypedDict):
    """What stands beside an artifact."""

    spec: Json
    bytes: int
    sha256: str
    inputs: dict[str, str]  # SHA-256 of every input, by its path in the store
    summary: Json  # what the stage found
    seconds: float
    images: int  # that went through, counted as often as they did
    peak_memory_bytes: NotRequired[int]
    peak_device_memory_bytes: NotRequired[int]
    device: str


def receipt_path(artifact: Path) -> Path:
    """Where the receipt of an artifact is."""
    return artifact.with_suffix(".json")


def read_receipt(artifact: Path) -> Receipt:
    """The receipt beside an artifact.

    Raises:
        UserError: if either is missing, or any byte of the receipt is not as it was written.
    """
    path = receipt_path(artifact)
    for file in (artifact, path):
        if not file.is_file():
            raise UserError(f"{file}: missing; rebuild it with: {rebuild(artifact)}")
    try:
        return _parse_receipt(path.read_bytes())
    except OSError as error:
        raise _unreadable(path, error, artifact) from None
    except ValueError as error:
        raise UserError(f"{path}: damaged receipt: {error}; rebuild it with: {rebuild(artifact)}") from None


def verify(artifact: Path) -> Receipt:
    """The receipt of an artifact whose size and hash are as the receipt says, and whose name has the key of the receipt's spec.

    Raises:
        UserError: if the artifact or its receipt is missing, truncated, altered or of another key.
    """
    receipt = read_receipt(artifact)
    remedy = f"rebuild it with: {rebuild(artifact)}"
    named = KEYED.fullmatch(artifact.stem)  # what is made by hand may be called anything
    got = key(receipt["spec"])
    if named and named["key"] != got:
        raise UserError(f"{receipt_path(artifact)}: expected the receipt of {named['key']}, got that of {got}; {remedy}")
    try:
        size = artifact.stat().st_size
        if size != receipt["bytes"]:
            raise UserError(f"{artifact}: damaged: expected {receipt['bytes']} bytes, got {size}; {remedy}")
        if file_hash(artifact) != receipt["sha256"]:
            raise UserError(f"{artifact}: damaged: its content is not what its receipt says; {remedy}")
    except OSError as error:
        raise _unreadable(artifact, error, artifact) from None
    return receipt


def write_receipt(artifact: Path, receipt: Json) -> None:
    """Write the receipt of an artifact that is there, its size and hash and the receipt's own hash added."""
    receipt = receipt | {"bytes": artifact.stat().st_size, "sha256": file_hash(artifact)}
    write_text(receipt_path(artifact), _receipt_text(receipt | {"receipt_sha256": _receipt_hash(receipt)}))


def _parse_receipt(content: bytes) -> Receipt:
    """The receipt that a file holds, without its own hash. Raises ValueError, which says what is wrong, if anything is."""
    try:
        receipt = json.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8, got byte {content[error.start]:#04x} at {error.start}") from None
    except (ValueError, RecursionError):
        raise ValueError("expected JSON, got something else") from None
    if not isinstance(receipt, dict):
        raise ValueError(f"expected a JSON object, got {type(receipt).__name__}")
    digest = receipt.pop("receipt_sha256", None)
    # The text, not its value, is compared: 1e-05 and 1E-05 are the same number.
    if digest != _receipt_hash(receipt) or content != _receipt_text(receipt | {"receipt_sha256": digest}).encode():
        raise ValueError("its text is not what was written")
    for name, kind in _RECEIPT.items():
        if not isinstance(receipt.get(name), kind):
            raise ValueError(f"{name}: expected {kind.__name__}, got {type(receipt.get(name)).__name__}")
    return cast(Receipt, receipt)


def _receipt_text(receipt: Json) -> str:
    return json.dumps(receipt, indent=1, sort_keys=True, allow_nan=False)


def _receipt_hash(receipt: Json) -> str:
    # Not of the canonical form, which leaves entries that are None out: their names are to be as they were written, too.
    return hashlib.sha256(_receipt_text(receipt).encode()).hexdigest()


def _unreadable(file: Path, error: OSError, artifact: Path) -> UserError:
    reason = error.strerror or str(error)
    return UserError(f"{file}: cannot be read: {reason}; make it readable, or rebuild it with: {rebuild(artifact)}")


def rebuild(artifact: Path) -> str:
    """The command that makes an artifact and its receipt again."""
    folder = ""
    if artifact.is_absolute() and artifact.parts[-4:-2] == ("results", "store"):
        # Snakemake knows it by its path from the working folder, which is another one.
        folder, artifact = f"cd {shlex.quote(str(artifact.parents[3]))} && ", artifact.relative_to(artifact.parents[3])
    file, receipt = shlex.quote(str(artifact)), shlex.quote(str(receipt_path(artifact)))
    # Snakemake makes a file that is asked for only if it is not there.
    return f"{folder}rm -f {file} {receipt} && snakemake --cores all {file}"
