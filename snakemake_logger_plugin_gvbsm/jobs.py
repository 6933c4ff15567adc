"""A job of Snakemake as a reader knows it: stage and name, without its key; its log; what it found."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gvbsm.errors import UserError
from gvbsm.format import readable_bytes, readable_spread
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import KEYED, Receipt, read_receipt

_KEY = re.compile(r"-[0-9a-f]{10}\b")
_TAIL = 20_000  # bytes at the end of a log that are read


@dataclass(frozen=True)
class Job:
    """A job that has started; `finish` is when it ended. Times are seconds since 1970."""

    rule: str
    output: tuple[str, ...]
    log: tuple[str, ...]
    start: float
    finish: float | None = None

    def ended(self, when: float) -> Job:
        """The job, ended at a time."""
        return replace(self, finish=when)

    @property
    def artifact(self) -> Path | None:
        """The artifact of the store that it makes; None if it makes another file."""
        path = Path(self.output[0]) if self.output else Path()
        return path if path.parent.parent == STORE and KEYED.fullmatch(path.stem) else None

    @property
    def is_stored(self) -> bool:
        """Whether it makes an artifact of the store."""
        return self.artifact is not None

    @property
    def stage(self) -> str:
        """The stage; of a rule that writes outside the store, the rule."""
        return self.artifact.parent.name if self.artifact else self.rule

    @property
    def title(self) -> str:
        """Stage and name: squeeze digits-convnet, publish digits/ipc10."""
        if self.artifact:
            return f"{self.stage} {without_keys(self.artifact.stem)}"
        folders = Path(self.output[0]).parts[1:-1] if self.output else ()
        return " ".join([self.rule, *(["/".join(folders)] if folders else [])])

    def receipt(self) -> Receipt | None:
        """The receipt of its artifact, if there is one."""
        try:
            return read_receipt(self.artifact) if self.artifact else None
        except UserError:
            return None

    def log_lines(self) -> list[str]:
        """The last lines of its log, none if there is no log."""
        try:
            with Path(self.log[0]).open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - _TAIL))
                text = file.read().decode("utf-8", "replace")
        except (OSError, IndexError):
            return []
        return [line for line in text.splitlines() if line.strip()]


def without_keys(text: str) -> str:
    """A text without the keys of artifacts."""
    return _KEY.sub("", text)


def result_of(receipt: Receipt) -> str:
    """What a job found, by the summary in its receipt: accuracy, numbers of what it made, bytes."""
    summary = receipt["summary"]
    parts = [_accuracy(summary["top1"])] if summary.get("top1") is not None else []
    if {"train_images", "test_images"} <= summary.keys():
        parts.append(f"{summary['train_images']:,} training and {summary['test_images']:,} test images")
    parts += [
        f"{summary[what + 's']:,} {what}{'' if summary[what + 's'] == 1 else 's'}"
        for what in ("network", "image", "layer", "view")
        if isinstance(summary.get(what + "s"), int)
    ]
    return ", ".join([*parts, readable_bytes(receipt["bytes"])])


def _accuracy(top1: Any) -> str:
    """A teacher's accuracy is a number, a student's one per seed."""
    mean, std = (top1["mean"], top1["std"]) if isinstance(top1, dict) else (top1, None)
    return f"top-1 {readable_spread(mean, std)} %"
