"""One artifact of the plan, and the plan files through which rules and stages meet it."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from gvbsm import keys
from gvbsm.disk import write_text
from gvbsm.errors import UserError
from gvbsm.receipts import KEYED

STORE = Path("results/store")
PLANS = Path("results/.plan")
TARGETS = PLANS / "targets"
LISTS = PLANS / "lists"
SUFFIX = dict.fromkeys(keys.STAGES, ".safetensors") | {"evaluate": ".csv", "publish": ".json", "draw": ".json"}
Spec = dict[str, Any]


@dataclass(frozen=True)
class Artifact:
    """One file of the store: what it is called, and everything that decides its bytes."""

    stage: str
    name: str
    spec: Spec

    @cached_property
    def key(self) -> str:
        return keys.key(self.spec)

    @cached_property
    def path(self) -> str:
        """Relative to the store."""
        return f"{self.stage}/{self.name}-{self.key}{SUFFIX[self.stage]}"


def write_plans(planned: list[Artifact], published: Path) -> Artifact:
    """Write the plan file of every artifact of a target, and return the last, that of publish or draw.

    Its plan file is the one input that Snakemake compares by time. If `published` (its JSON) holds another key,
    the file is made new, whatever Snakemake remembers; if it holds this key, the file is made older than it.
    """
    *made, last = planned
    for artifact in made:
        _write_plan(artifact, plan_file(artifact.key))
    file = target_file(last.key)
    _write_plan(last, file)
    then = time.time()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if json.loads(published.read_text(encoding="utf-8"))["key"] == last.key:
            then = published.stat().st_mtime - 1
    try:
        if file.stat().st_mtime != then:
            os.utime(file, (then, then))
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}; make the folder writable") from None
    return last


def plan_file(key: str) -> Path:
    """Where the plan of an artifact of the store is."""
    return PLANS / f"{key}.json"


def target_file(key: str) -> Path:
    """Where the plan of publish or draw is: in a folder of its own.

    Snakemake lists a folder once, and takes what is written there later, for the next of several targets, for missing.
    """
    return TARGETS / key / "plan.json"


def write_list(target: Path, files: list[str]) -> Path:
    """Write what a file outside the store is made of, and return where: an input that is newer than the file if it was
    made of others, since Snakemake looks at the times of inputs alone, not whether they are those of before."""
    file = LISTS / target.relative_to("results") / "files.txt"
    _write_if_other("".join(f"{one}\n" for one in files), file)
    return file


def _write_plan(artifact: Artifact, file: Path) -> None:
    """Write a plan file, if it does not hold this already."""
    text = json.dumps({"stage": artifact.stage, "name": artifact.name, "spec": artifact.spec}, indent=1, sort_keys=True)
    _write_if_other(text, file)


def _write_if_other(text: str, file: Path) -> None:
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write_text(file, text, durable=False)  # hundreds at a time, and what a crash leaves of one is written again


def read_plan(key: str) -> Artifact:
    """The artifact of a key, from its plan file.

    Raises:
        UserError: if the file is missing or is not what the key says.
    """
    file = plan_file(key)
    try:
        artifact = Artifact(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise UserError(f"{file}: missing or damaged plan; ask Snakemake for the acc.json it belongs to") from None
    if artifact.key != key:
        raise UserError(f"{file}: expected the plan of {key}, got that of {artifact.key}; delete the file and plan again")
    return artifact


def run_title(spec: Spec) -> str:
    """How pictures, tables and pages name a run, from a spec of publish or draw or from acc.json."""
    images, recipe = "image" if spec["ipc"] == 1 else "images", spec.get("recipe")
    return f"{spec['dataset']}, {spec['ipc']} {images} per class" + (f", {recipe}" if recipe else "")


def input_paths(spec: Spec) -> list[str]:
    """The artifacts a spec reads, relative to the store, in its order."""

    def flatten(value: Any) -> list[str]:
        if value is None:
            return []
        if isinstance(value, str):
            return [value]
        return [path for item in (value.values() if isinstance(value, dict) else value) for path in flatten(item)]

    return list(dict.fromkeys(flatten(spec.get("inputs", {}))))


def artifact_of(file: Path) -> str | None:
    """The artifact, relative to the store, that a file is or has the receipt of, by its folder and name; None if neither."""
    stage = file.parent.name
    if stage not in keys.STORED or file.suffix not in (SUFFIX[stage], ".json") or not KEYED.fullmatch(file.stem):
        return None
    return f"{stage}/{file.stem}{SUFFIX[stage]}"


def files_in(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing if it is not there. Raises UserError if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder}: expected a folder, got an error: {error.strerror}; make it readable") from None


def stored(store: Path) -> list[str]:
    """Every artifact that the store has, or has half of (it or its receipt), relative to it, in the order of the chain."""
    found = [artifact_of(file) for stage in keys.STORED for file in files_in(store / stage)]
    return list(dict.fromkeys(path for path in found if path))
