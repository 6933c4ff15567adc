"""What a target will take before anything is run: jobs, bytes, and hours at the rates of jobs that have been run here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gvbsm import keys
from gvbsm.configs import parse_target
from gvbsm.errors import UserError
from gvbsm.method.coding import Coding, bytes_per_view
from gvbsm.plan import plan
from gvbsm.planfiles import STORE, Artifact, Spec, files_in
from gvbsm.receipts import KEYED, read_receipt, receipt_path
from gvbsm.wording import readable_bytes

# Training images of the whole data sets: {(kind, classes): images}.
_KNOWN_SETS = {
    ("cifar10", 10): 50_000,
    ("cifar100", 100): 50_000,
    ("tiny_imagenet", 200): 100_000,
    ("imagenet", 1000): 1_281_167,
}
_STORED_VIEW = 29  # bytes of a view that is stored beside its label


@dataclass
class _Sum:
    """A sum of what is known."""

    value: float = 0
    known: int = 0
    unknown: int = 0

    def add(self, value: float | None) -> None:
        self.value += value or 0
        self.known += value is not None
        self.unknown += value is None

    def __add__(self, other: _Sum) -> _Sum:
        return _Sum(self.value + other.value, self.known + other.known, self.unknown + other.unknown)

    def text(self, readable: Callable[[float], str]) -> str:
        if not self.known:
            return "unknown"
        return ("> " if self.unknown else "") + readable(self.value)


@dataclass
class _Stage:
    """The jobs of a stage; all their bytes, and the seconds of those that are still to run."""

    jobs: int = 0
    to_run: int = 0
    bytes: _Sum = field(default_factory=_Sum)
    seconds: _Sum = field(default_factory=_Sum)


def estimate(target: str) -> str:
    """A line per stage, and a last one for all; jobs count one after another, on one device.

    Bytes of images and soft labels follow from the settings. Other files are taken to be as large, and all jobs to be as
    fast, as those of the same kind in the store: the same stage, networks and image size, and if there are any, the same
    precision, threads and compilation.
    """
    dataset, ipc, recipe = parse_target(target)
    planned = plan(dataset, ipc, recipe)[:-1]
    known = _Known()
    stages: dict[str, _Stage] = {}
    for artifact in planned:
        stage = stages.setdefault(artifact.stage, _Stage())
        stage.jobs += 1
        receipt = _receipt(STORE / artifact.path)
        if receipt:
            stage.bytes.add(receipt["bytes"])
            stage.seconds.add(0)
            continue
        stage.to_run += 1
        images, like = _images(artifact.spec, planned, ipc), known.like(artifact)
        size = _bytes(artifact.spec, planned, ipc)
        if size is None and like and artifact.stage != "prepare":
            size = like["bytes"]
        rate = like["images"] / like["seconds"] if like and like["images"] and like["seconds"] else None
        stage.bytes.add(size)
        stage.seconds.add(images / rate if images and rate else None)
    return _table(stages)


class _Known:
    """The receipts of the store by what their jobs computed."""

    def __init__(self) -> None:
        self._by_kind: dict[str, dict[str, Any]] = {}
        for stage in keys.STORED:
            for file in files_in(STORE / stage):
                receipt = _receipt(file) if file.suffix != ".json" else None
                if receipt:
                    for exactly in (False, True):
                        self._by_kind[_kind(stage, file.stem, receipt["spec"], exactly)] = receipt

    def like(self, artifact: Artifact) -> dict[str, Any] | None:
        """The receipt of a job of the same kind, or of nearly the same."""
        kinds = (_kind(artifact.stage, artifact.name, artifact.spec, exactly) for exactly in (True, False))
        return next((self._by_kind[kind] for kind in kinds if kind in self._by_kind), None)


def _kind(stage: str, name: str, spec: Spec, exactly: bool) -> str:
    """What decides the speed of a job, as text; without what decides it less, unless `exactly`."""
    settings = spec.get("settings", {})
    how = {name: settings.get(name) for name in ("precision", "threads", "compile")} | {"own": spec.get("precisions")}
    named = KEYED.fullmatch(name)
    kind = {
        "stage": stage,
        "source": spec.get("source"),
        "network": spec.get("network") or (named["name"] if named else name),
        "teachers": [Path(path).stem[:-11] for path in spec.get("inputs", {}).get("teachers") or []],
        "size": spec.get("pixels", {}).get("image_size"),
        "random": None if stage == "evaluate" else bool(spec.get("random")),
        "how": how if exactly else None,
    }
    if stage in ("select", "recover", "adopt", "relabel", "convert"):
        del kind["network"]
    return keys.canonical(kind)


def _receipt(artifact: Path) -> dict[str, Any] | None:
    """The receipt of an artifact that is there with it."""
    try:
        return read_receipt(artifact) if receipt_path(artifact).is_file() else None
    except UserError:
        return None


def _images(spec: Spec, planned: list[Artifact], ipc: int) -> int | None:
    """How many images go through a job, counted as its receipt will; None if it is not known."""
    stage, settings = spec["stage"], spec.get("settings", {})
    if stage == "prepare":
        return _training_images(spec)
    if stage in ("squeeze", "statistics"):
        count = _training_images(planned[0].spec)
        epochs = settings.get("keep_epoch") or settings.get("epochs", 1)
        return None if count is None or spec.get("weights") else count * epochs
    if stage == "recover":
        return _places(spec) * settings["iterations"]
    if stage == "select":
        return _places(spec) * settings["cells"] ** 2 * settings["candidates"]
    count = planned[0].spec["classes"] * ipc
    if stage == "adopt":
        return count
    if stage in ("relabel", "convert"):
        first, end = spec["epochs"]
        return count * (end - first)
    return count * settings["epochs"] * len(spec["seeds"])


def _bytes(spec: Spec, planned: list[Artifact], ipc: int) -> int | None:
    """Bytes of a job's tensors, without the header of a kilobyte or so; None if they do not follow from the settings."""
    stage, classes = spec["stage"], planned[0].spec["classes"]
    if stage in ("select", "recover"):
        image = len(spec["pixels"]["mean"]) * spec["pixels"]["image_size"] ** 2
        sources = 8 * spec["settings"]["cells"] ** 2 if stage == "select" else 0
        kept = spec.get("snapshots") or {"labels": [], "iterations": []}
        return _places(spec) * (image + sources + 16) + len(kept["labels"]) * len(kept["iterations"]) * image
    if stage == "adopt":
        return classes * ipc * (spec["channels"] * spec["image_size"] ** 2 + 16)
    if stage in ("relabel", "convert"):
        first, end = spec["epochs"]
        is_converted = stage == "convert"
        coding = Coding(**(spec if is_converted else spec["settings"])["coding"])
        per_view = bytes_per_view(coding, classes) + (_STORED_VIEW if is_converted else 0)
        return (end - first) * classes * ipc * per_view
    return None


def _places(spec: Spec) -> int:
    """Images that a job selects or recovers."""
    return sum(end - first for batch in spec["batches"] for _, first, end in batch)


def _training_images(spec: Spec) -> int | None:
    """Of the data set that a spec of prepare is for: from its receipt, or because everyone knows."""
    for file in files_in(STORE / "prepare"):
        receipt = _receipt(file) if file.suffix != ".json" else None
        if receipt and keys.canonical(receipt["spec"]["source"]) == keys.canonical(spec["source"]):
            return int(receipt["summary"]["train_images"])
    return _KNOWN_SETS.get((spec["source"]["kind"], spec["classes"]))


def _table(stages: dict[str, _Stage]) -> str:
    total = _Stage()
    for stage in stages.values():
        total = _Stage(*(getattr(total, name) + getattr(stage, name) for name in ("jobs", "to_run", "bytes", "seconds")))
    lines = [f"{'stage':<11}{'jobs':>6}{'to run':>8}{'size':>12}{'hours to run':>14}"]
    for name, stage in [*stages.items(), ("all", total)]:
        hours = stage.seconds.text(lambda seconds: f"{seconds / 3600:.2f}")
        lines.append(f"{name:<11}{stage.jobs:>6}{stage.to_run:>8}{stage.bytes.text(readable_bytes):>12}{hours:>14}")
    if total.seconds.unknown:
        lines.append("unknown: nothing of the kind has been run here; a recipe with few epochs would show its speed")
    return "\n".join(lines) + "\n"
