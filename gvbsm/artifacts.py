"""Files of the store: written whole or not at all, each with a receipt, and verified whenever they are read.

No pickle: tensors are safetensors, tables CSV, the rest JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import itertools
import json
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gvbsm.errors import UserError
from gvbsm.keys import PACKAGE, canonical, key

if TYPE_CHECKING:
    from torch import Tensor

_PACKAGES = ("gvbsm", "torch", "torchvision", "kornia", "numpy", "safetensors", "pillow", "scikit-learn", "timm")
KEYED = re.compile(r"(?P<name>[A-Za-z0-9_.-]+)-(?P<key>[0-9a-f]{10})")  # the name of a file of the store, without its suffix
_RECEIPT = {"spec": dict, "bytes": int, "sha256": str, "inputs": dict}  # what is read of every receipt


@contextlib.contextmanager
def _replacing(out: Path, durable: bool = True) -> Iterator[Path]:
    """A temporary name beside `out` that becomes `out` only when the block ends well, and on the disk if `durable`.

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
        reason = error.strerror or str(error)
        raise UserError(f"{out}: cannot be written: {reason}; free space or make the folder writable") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def write_text(out: Path, text: str, durable: bool = True) -> None:
    """Write a text file (UTF-8) atomically. Raises UserError if that is impossible."""
    write_bytes(out, text.encode(), durable)


def write_bytes(out: Path, content: bytes, durable: bool = True) -> None:
    """Write a file atomically, not waiting for the disk unless `durable`. Raises UserError if that is impossible."""
    with _replacing(out, durable) as temporary:
        temporary.write_bytes(content)


def save_tensors(out: Path, tensors: dict[str, Tensor], metadata: Any) -> None:
    """Write tensors and JSON-able metadata as one safetensors file, atomically."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with _replacing(out) as temporary:
        try:
            # One metadata entry: the library does not promise an order for several, and files must repeat exactly.
            save_file({name: t.contiguous() for name, t in tensors.items()}, temporary, {"gvbsm": canonical(metadata)})
        except SafetensorError as error:
            raise OSError(str(error)) from None


def load_tensors(path: Path) -> tuple[dict[str, Tensor], Any]:
    """Tensors (memory-mapped) and metadata of a file that `save_tensors` wrote."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        return tensors, json.loads((file.metadata() or {}).get("gvbsm", "null"))


def receipt_path(artifact: Path) -> Path:
    """Where the receipt of an artifact is."""
    return artifact.with_suffix(".json")


def read_receipt(artifact: Path) -> dict[str, Any]:
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


def verify(artifact: Path) -> dict[str, Any]:
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


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass
class Job:
    """One artifact being made: its spec, verified reads of its inputs, and the one write with its receipt."""

    spec: dict[str, Any]
    out: Path
    store: Path
    device: str = "auto"
    checkpoints: Path | None = None  # folder of this job's checkpoints
    checkpoint_seconds: float = 300.0
    data_root: Path = Path("data")
    workers: int = 0  # processes that decode images
    processes: int = 1  # that train together
    writes: bool = True  # of those, the first does
    images: int = 0  # how many went through the stage, counted as often as they did
    started: float = field(default_factory=time.perf_counter)
    seconds_before: float = 0.0  # of the processes whose checkpoint this one goes on from
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)  # of the inputs read so far, each verified once
    # SHA-256 of the inputs and of what they were made from, and by which input's receipt.
    _contents: dict[str, tuple[str, str]] = field(default_factory=dict)
    classes: list[str] | None = None  # what identifies the classes, in the order of their labels: the same in all inputs

    @property
    def title(self) -> str:
        """What progress is shown under."""
        return f"{self.spec['stage']} {self.out.stem}"

    def receipt(self, path: str) -> dict[str, Any]:
        """The verified receipt of an input, `path` relative to the store.

        Raises:
            UserError: if the input is damaged, or it and another were made from different contents of one artifact.
        """
        if path not in self.receipts:
            receipt = verify(self.store / path)
            for name, content in {**receipt["inputs"], path: receipt["sha256"]}.items():
                known, said_by = self._contents.setdefault(name, (content, path))
                if known != content:
                    stale = self.store / (said_by if name == path else path)
                    raise UserError(
                        f"{stale}: made from another {self.store / name} than other inputs or the one there now; rebuild it "
                        f"with: {rebuild(stale)}"
                    )
            self.receipts[path] = receipt
        return self.receipts[path]

    def tensors(self, path: str) -> tuple[dict[str, Tensor], Any]:
        """Tensors and metadata of an input, verified first.

        Raises:
            UserError: if it is damaged, or its classes are not those of the inputs read before it.
        """
        self.receipt(path)
        tensors, metadata = load_tensors(self.store / path)
        self.classes = self.classes or metadata["classes"]
        if metadata["classes"] != self.classes:
            pairs = enumerate(itertools.zip_longest(self.classes, metadata["classes"]))
            label, (expected, got) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
            raise UserError(
                f"{self.store / path}: expected class {label} to be {expected!r}, got {got!r}; use inputs of one data set"
            )
        return tensors, metadata

    def write_tensors(self, tensors: dict[str, Tensor], metadata: dict[str, Any], summary: dict[str, Any]) -> None:
        """Write the artifact, with the classes of its inputs, then its receipt with `summary` in it."""
        if self.writes:
            save_tensors(self.out, tensors, {"classes": self.classes, **metadata})
            self._write_receipt(summary)

    def write_table(self, text: str, summary: dict[str, Any]) -> None:
        """Write a CSV artifact, then its receipt with `summary` in it."""
        if self.writes:
            write_text(self.out, text)
            self._write_receipt(summary)

    def seconds(self) -> float:
        """Time spent on the artifact so far, in the processes before this one up to their last checkpoint."""
        return self.seconds_before + time.perf_counter() - self.started

    def is_made(self) -> bool:
        """Whether the artifact is there, whole, and made from this spec."""
        try:
            return canonical(verify(self.out)["spec"]) == canonical(self.spec)
        except UserError:
            return False

    def _write_receipt(self, summary: dict[str, Any]) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        receipt = {
            "spec": self.spec,
            "bytes": self.out.stat().st_size,
            "sha256": file_hash(self.out),
            "inputs": {path: receipt["sha256"] for path, receipt in self.receipts.items()},
            "summary": summary,
            "seconds": round(self.seconds(), 3),
            "images": self.images,
            "peak_memory_bytes": peak if sys.platform == "darwin" else peak * 1024,
            "peak_device_memory_bytes": _peak_device_memory(),
            "device": self.device,
            "processes": self.processes,
            **provenance(),
        }
        write_text(receipt_path(self.out), _receipt_text(receipt | {"receipt_sha256": _receipt_hash(receipt)}))


def provenance() -> dict[str, Any]:
    """Git revision of the package, versions of what computed, machine."""
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "git": _git_revision(),
        "packages": versions,
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def _git_revision() -> str | None:
    command = ["git", "-C", str(PACKAGE.parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def _peak_device_memory() -> int:
    """Bytes that tensors held at most on a CUDA device; 0 if this process used none."""
    torch = sys.modules.get("torch")  # what used a device has loaded it
    return int(torch.cuda.max_memory_allocated()) if torch and torch.cuda.is_initialized() else 0


def _parse_receipt(content: bytes) -> dict[str, Any]:
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
    return receipt


def _receipt_text(receipt: dict[str, Any]) -> str:
    return json.dumps(receipt, indent=1, sort_keys=True, allow_nan=False)


def _receipt_hash(receipt: dict[str, Any]) -> str:
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
