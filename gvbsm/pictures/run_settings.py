"""The settings of a run as acc.json tells them: by stage, not by job; and as a row that can be run again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from gvbsm.config.row import Row
from gvbsm.store.spec import Json, Spec

# Of a spec: where it comes from, and which part of the whole it is.
_NOT_SETTINGS = ("stage", "inputs", "code", "batches", "snapshots", "random", "views", "online")


def settings_of(specs: Mapping[str, Spec], teachers: Mapping[str, str], students: Mapping[str, Mapping[str, str]]) -> Json:
    """The settings of every stage, by teacher and student where there are several; not what follows from other stages.

    `specs` are those of a run's artifacts by path; `teachers` (paths by label) and `students` (paths by label and kind) are
    publish's inputs, which say whose they are.
    """
    owner = {path: label for label, path in teachers.items()}
    owner |= {kinds["distilled"]: student for student, kinds in students.items()}
    of_stages: Json = {}
    for path, spec in specs.items():
        raw = spec.json_object
        settings = {name: value for name, value in raw.items() if name not in _NOT_SETTINGS}
        settings |= settings.pop("settings", None) or {}
        if spec.stage == "recover" and raw.get("views"):
            settings["views"] = "relabel"  # whose settings say the rest
        if raw.get("online") and path in owner:  # there is no relabel whose settings would say how views are drawn
            of_stages["relabel"] = {**raw["views"], **raw["online"], "online": True}
        if raw.get("random"):
            of_stages["baselines"] = {"random_seed": raw["random"]["seed"]}
        if "network" in raw:  # a teacher or a student; what only stands beside them has none of its own to tell
            if path in owner:
                of_stages.setdefault(spec.stage, {})[owner[path]] = settings
            continue
        epochs = settings.pop("epochs", None)  # all shards have the same settings, but for the epochs that are theirs
        of_stages.setdefault(spec.stage, settings)
        if epochs:
            of_stages[spec.stage]["epochs"] = max(of_stages[spec.stage].get("epochs", 0), epochs[1])
    return of_stages


def row_text(row: Json, title: str) -> str:
    """settings.yaml: a row file that does not extend another, from the merged settings of a run."""
    sections = sorted(row, key=lambda name: list(Row.model_fields).index(name) if name in Row.model_fields else -1)
    head = f"# {title}: the row and the recipe, laid over one another, as they were when the run was published.\n"
    return head + yaml.safe_dump({name: row[name] for name in sections}, sort_keys=False, allow_unicode=True, width=100)


def flat(value: Any, at: str = "") -> Json:
    """Nested settings by their dotted names."""
    if not isinstance(value, dict):
        return {at: value}
    return {name: leaf for part, item in value.items() for name, leaf in flat(item, f"{at}.{part}" if at else part).items()}
