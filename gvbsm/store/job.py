"""A job: it makes one artifact of the store from verified inputs.

Artifacts are safetensors, CSV tables or JSON, each with a receipt.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import platform
import resource
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gvbsm.errors import UserError
from gvbsm.store.code import IN_CLONE, PROJECT
from gvbsm.store.files import load_tensors, save_tensors, write_text
from gvbsm.store.keys import canonical
from gvbsm.store.receipts import Receipt, rebuild, verify, write_receipt
from gvbsm.store.spec import Json, Spec

if TYPE_CHECKING:
    from torch import Tensor

_PACKAGES = ("gvbsm", "torch", "torchvision", "numpy", "safetensors", "pillow", "scikit-learn", "timm")


S = TypeVar("S", bound=Spec)


@dataclass(kw_only=True)
class Reader:
    """Verified reads of artifacts, with the receipts and classes read so far."""

    store: Path
    data_root: Path = Path("data")
    workers: int = 0  # processes that decode images
    checkpoints: Path | None = None  # folder of a job's checkpoints and of tensors too large for memory
    receipts: dict[str, Receipt] = field(default_factory=dict)  # of the inputs read so far, each verified once
    # path -> (SHA-256, path of the input whose receipt gave it), of the inputs and of their own inputs
    _contents: dict[str, tuple[str, str]] = field(default_factory=dict)
    classes: list[str] | None = None  # identifiers, in the order of the labels; the same in all inputs

    def receipt(self, path: str) -> Receipt:
        """The verified receipt of an input, `path` relative to the store.

        Raises:
            UserError: if the input is damaged, or two inputs were made from different contents of one artifact.
        """
        if path not in self.receipts:
            receipt = verify(self.store / path)
            for name, content in {**receipt["inputs"], path: receipt["sha256"]}.items():
                earlier_content, source = self._contents.setdefault(name, (content, path))
                if earlier_content != content:
                    stale = self.store / (source if name == path else path)
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


@dataclass(kw_only=True)
class Job(Reader, Generic[S]):
    """The making of one artifact: its spec, verified reads of its inputs, and the write of the artifact and its receipt."""

    spec: S
    out: Path
    device: str = "auto"
    checkpoint_seconds: float = 300.0
    processes: int = 1  # number that train together
    ahead: bool = False  # whether to do the work of waiting jobs that read the same images, too
    writes: bool = True  # whether this process writes; if several train together, only rank 0 does
    precisions: list[str] = field(default_factory=list)  # computed in, of each teacher or of all, if not the settings'
    # By name of the artifact of a network: each way in which passes through it ran, for the receipt.
    passes: dict[str, list[str]] = field(default_factory=dict)
    images: int = 0  # images that the stage processed, with repetitions
    started: float = field(default_factory=time.perf_counter)
    seconds_before: float = 0.0  # of the earlier processes whose checkpoint this one continues

    @property
    def title(self) -> str:
        """The title of the job's progress."""
        return f"{self.spec.stage} {self.out.stem}"

    def write_tensors(self, tensors: dict[str, Tensor], metadata: Json, summary: Json) -> None:
        """Write the artifact, with the classes of its inputs, then its receipt with `summary` in it."""
        if self.writes:
            save_tensors(self.out, tensors, {"classes": self.classes, **metadata})
            self._write_receipt(summary)

    def write_table(self, text: str, summary: Json) -> None:
        """Write a CSV artifact, then its receipt with `summary` in it."""
        if self.writes:
            write_text(self.out, text)
            self._write_receipt(summary)

    def seconds(self) -> float:
        """Time spent on the artifact so far; of earlier processes, the time up to their last checkpoint."""
        return self.seconds_before + time.perf_counter() - self.started

    def is_made(self) -> bool:
        """Whether the artifact exists undamaged and was made from this spec."""
        try:
            return canonical(verify(self.out)["spec"]) == canonical(self.spec.json_object)
        except UserError:
            return False

    def passes_of(self) -> list[str]:
        """The list of the ways in which passes through the network that the job trains ran."""
        return self.passes.setdefault(self.out.stem, [])

    def _write_receipt(self, summary: Json) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        receipt = {
            "spec": self.spec.json_object,
            "inputs": {path: receipt["sha256"] for path, receipt in self.receipts.items()},
            "summary": summary | self._ran(),
            "seconds": round(self.seconds(), 3),
            "images": self.images,
            "peak_memory_bytes": peak if sys.platform == "darwin" else peak * 1024,
            "peak_device_memory_bytes": _peak_device_memory(),
            "device": self.device,
            "processes": self.processes,
            **provenance(),
        }
        write_receipt(self.out, receipt)

    def _ran(self) -> Json:
        """How the job computed, where the settings alone do not say it."""
        passes = {name: "; ".join(hows) for name, hows in self.passes.items()}
        precision = ", ".join(self.precisions)
        return ({"precision": precision} if precision else {}) | ({"passes": passes} if passes else {})


def provenance() -> Json:
    """Git revision of the package, versions of the libraries, machine."""
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
    """The commit of the code, with "-dirty" if a file of it is changed or not tracked."""
    if not IN_CLONE:  # another repository may hold the environment
        return None
    try:
        commit, changes = _git("describe", "--always", "--abbrev=12"), _git("status", "--porcelain", "--", "gvbsm", "workflow")
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}-dirty" if changes else commit


def _git(*command: str) -> str:
    run = subprocess.run(["git", "-C", str(PROJECT), *command], capture_output=True, text=True, timeout=10, check=True)
    return run.stdout.strip()


def _peak_device_memory() -> int:
    """Peak bytes of tensors on a CUDA device; 0 if this process used none."""
    torch = sys.modules.get("torch")  # None: torch was not loaded, so no device was used
    return int(torch.cuda.max_memory_allocated()) if torch and torch.cuda.is_initialized() else 0
