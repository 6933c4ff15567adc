"""Plan files, which give rules and stages the spec of an artifact, and lists of the inputs of files outside the store."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path

from gvbsm.errors import file_in_the_way, unreadable, unwritable
from gvbsm.store.files import parse_json, write_text
from gvbsm.store.spec import Json, Spec
from gvbsm.store.working_folder import RESULTS

STORE = Path(RESULTS) / "store"
PLANS = Path(RESULTS) / ".plan"
TARGETS = PLANS / "targets"
LISTS = PLANS / "lists"


def plan_file(key: str) -> Path:
    """The plan file of an artifact of the store."""
    return PLANS / f"{key}.json"


def target_file(key: str) -> Path:
    """The plan file of publish or draw, in a folder of its own.

    Snakemake lists a folder once, so it would miss a plan written there later for another target.
    """
    return TARGETS / key / "plan.json"


def write_plan(name: str, spec: Spec, file: Path) -> None:
    """Write the plan file of an artifact, unless it has this content already."""
    text = json.dumps({"stage": spec.stage, "name": name, "spec": spec.json_object}, indent=1, sort_keys=True)
    _write_if_different(text, file)


def date_target(key: str, published: Path) -> None:
    """Set the time of the plan file of publish or draw, the one input that Snakemake compares by time.

    If `published` (its JSON) holds this key, the plan file becomes older than it. If not, the plan file gets the present time,
    so that Snakemake makes the target again.
    """
    file, timestamp = target_file(key), time.time()
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        if parse_json(published.read_text(encoding="utf-8"))["key"] == key:
            timestamp = published.stat().st_mtime - 1
    try:
        if file.stat().st_mtime != timestamp:
            os.utime(file, (timestamp, timestamp))
    except OSError as error:
        raise unwritable(file, error) from None


def read_plan_file(file: Path) -> tuple[str, Json]:
    """The name of an artifact and the JSON of its spec.

    Raises:
        OSError, ValueError, KeyError, TypeError: if the file is missing or is no plan.
    """
    plan = parse_json(file.read_text(encoding="utf-8"))
    name, spec = plan["name"], plan["spec"]
    if not isinstance(name, str) or not isinstance(spec, dict):
        raise TypeError("expected a plan")
    return name, spec


def write_list(target: Path, files: list[str]) -> Path:
    """Write the list of a file's inputs, for a file outside the store, and return the list's path. The list is an input too:
    Snakemake compares only the times of inputs, and the list becomes newer when the inputs are others."""
    file = LISTS / target.relative_to(RESULTS) / "files.txt"
    _write_if_different("".join(f"{line}\n" for line in files), file)
    return file


def _write_if_different(text: str, file: Path) -> None:
    if not file.exists() or file.read_bytes() != text.encode():  # bytes, as a damaged one may be no text
        write_text(file, text, durable=False)  # there are hundreds, and a damaged one is written again


def files_in(folder: Path) -> list[Path]:
    """The entries of a folder, sorted; none if there is no folder. Raises UserError if it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise file_in_the_way(folder) or unreadable(folder, error) from None
