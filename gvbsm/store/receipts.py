"""Receipts: the spec and inputs of an artifact, the hash of its bytes, and the check of all of them."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from gvbsm.errors import UserError
from gvbsm.store.files import file_hash, parse_json, write_text
from gvbsm.store.keys import key
from gvbsm.store.spec import Json
from gvbsm.store.working_folder import make_command

KEYED = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)-(?P<key>[0-9a-f]{10})")  # the name of a file of the store, without its suffix
_RECEIPT = {"spec": dict, "bytes": int, "sha256": str, "inputs": dict}  # the entries that every receipt must have


class Receipt(TypedDict):
    """The JSON file beside an artifact."""

    spec: Json
    bytes: int
    sha256: str
    inputs: dict[str, str]  # SHA-256 of every input, by its path in the store
    summary: Json  # results of the stage
    seconds: float
    images: int  # processed images, with repetitions
    peak_memory_bytes: NotRequired[int]
    peak_device_memory_bytes: NotRequired[int]
    device: str


def receipt_path(artifact: Path) -> Path:
    """The path of an artifact's receipt."""
    return artifact.with_suffix(".json")


def read_receipt(artifact: Path) -> Receipt:
    """The receipt beside an artifact.

    Raises:
        UserError: if either is missing, or any byte of the receipt has changed.
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
    """The receipt of an artifact, after a check of the artifact's size, hash and name: the name has the key of the spec.

    Raises:
        UserError: if the artifact or its receipt is missing, truncated, altered or of another key.
    """
    receipt = read_receipt(artifact)
    remedy = f"rebuild it with: {rebuild(artifact)}"
    match = KEYED.fullmatch(artifact.stem)  # None: an artifact made by hand may have any name
    got = key(receipt["spec"])
    if match and match["key"] != got:
        raise UserError(f"{receipt_path(artifact)}: expected the receipt of {match['key']}, got that of {got}; {remedy}")
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
    """Write the receipt of an existing artifact, and add the artifact's size and hash and the receipt's own hash."""
    receipt = receipt | {"bytes": artifact.stat().st_size, "sha256": file_hash(artifact)}
    write_text(receipt_path(artifact), _receipt_text(receipt | {"receipt_sha256": _receipt_hash(receipt)}))


def _parse_receipt(content: bytes) -> Receipt:
    """The receipt in a file's content, without its own hash. Raises ValueError with the reason if it is damaged."""
    try:
        receipt = parse_json(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"expected UTF-8, got byte {content[error.start]:#04x} at {error.start}") from None
    except ValueError:
        raise ValueError("expected JSON, got something else") from None
    if not isinstance(receipt, dict):
        raise ValueError(f"expected a JSON object, got {type(receipt).__name__}")
    digest = receipt.pop("receipt_sha256", None)
    # Compare the text, not the parsed value: 1e-05 and 1E-05 are the same number.
    if digest != _receipt_hash(receipt) or content != _receipt_text(receipt | {"receipt_sha256": digest}).encode():
        raise ValueError("its text is not what was written")
    for name, kind in _RECEIPT.items():
        if not isinstance(receipt.get(name), kind):
            raise ValueError(f"{name}: expected {kind.__name__}, got {type(receipt.get(name)).__name__}")
    return cast(Receipt, receipt)


def _receipt_text(receipt: Json) -> str:
    return json.dumps(receipt, indent=1, sort_keys=True, allow_nan=False)


def _receipt_hash(receipt: Json) -> str:
    # Not of the canonical form, which leaves out entries that are None; a change of their names must be detected too.
    return hashlib.sha256(_receipt_text(receipt).encode()).hexdigest()


def _unreadable(file: Path, error: OSError, artifact: Path) -> UserError:
    reason = error.strerror or str(error)
    return UserError(f"{file}: cannot be read: {reason}; make it readable, or rebuild it with: {rebuild(artifact)}")


def rebuild(artifact: Path) -> str:
    """The shell command that makes an artifact and its receipt again."""
    return make_command(artifact, artifact, receipt_path(artifact))
