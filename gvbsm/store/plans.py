"""The plan files through which rules and stages meet an artifact, and lists of what files outside the store are made of."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from gvbsm.errors import UserError
from gvbsm.store.files import write_text
from gvbsm.store.spec import Json, Spec

STORE = Path("results/store")
PLANS = Path("results/.plan")
TARGETS = PLANS / "targets"
LISTS = PLANS / "lists"


def plan_file(key: str) -> Path:
    """Where the plan of an artifact of the store is."""
    return PLANS / f"{key}.json"


def target_file(key: str) -> Path:
    """Where the plan of publish or draw is: in a folder of its own.

    Snakemake lists a folder once, and takes what is written there later, for the next of several targets, for missing.
    """
    return TARGETS / key / "plan.json"


def write_plan(name: str, spec: Spec, file: Path) -> None:
    """Write the plan file of an artifact, if it does not hold this already."""
    text = json.dumps({"stage": spec.stage, "name": name, "spec": spec.json_object}, indent=1, sort_keys=True)
    _write_if_other(text, file)


def date_target(key: str, published: Path) -> None:
    """Set the time of the plan file of publish or draw, the one input that Snakemake compares by time.

    If `published` (its JSON) holds another key, the file is made new, whatever Snakemake remembers; if it holds this key, the
    file is made older than it.
    """
    file, then = target_file(key), time.time()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if json.loads(published.read_text(encoding="utf-8"))["key"] == key:
            then = published.stat().st_mtime - 1
    try:
        if file.stat().st_mtime != then:
            os.utime(file, (then, then))
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}; make the folder writable") from None


def read_plan_file(file: Path) -> tuple[str, Json]:
    """The name of an artifact and the JSON of its spec.

    Raises:
        OSError, ValueError, KeyError, TypeError: if the file is missing or is no plan.
    """
    plan = json.loads(file.read_text(encoding="utf-8"))
    name, spec = plan["name"], plan["spec"]
    if not isinstance(name, str) or not isinstance(spec, dict):
        raise TypeError("expected a plan")
    return name, spec


def write_list(target: Path, files: list[str]) -> Path:
    """Write what a file outside the store is made of, and return where: an input that is newer than the file if it was
    made of others, since Snakemake looks at the times of inputs alone, not whether they are those of before."""
    file = LISTS / target.relative_to("results") / "files.txt"
    _write_if_other("".join(f"{line}\n" for line in files), file)
    return file


def _write_if_other(text: str, file: Path) -> None:
    if not file.exists() or file.read_text(encoding="utf-8") != text:
        write_text(file, text, durable=False)  # hundreds at a time, and what a crash leaves of one is written again


def files_in(folder: Path) -> list[Path]:
    """What is in a folder, sorted; nothing if it is not there. Raises UserError if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError(f"{folder}: expected a folder, got an error: {error.strerror}; make it readable") from None
