"""Loads rows: merges the files of a data set and a recipe with those that they extend, and completes every network's entry."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gvbsm.config.messages import Place, SettingsError, did_you_mean, one_line, short
from gvbsm.config.networks import label
from gvbsm.config.row import Evaluate, Row
from gvbsm.config.stages import Training
from gvbsm.config.targets import check_name
from gvbsm.config.yaml_files import read_yaml, rows_folder
from gvbsm.store.spec import Json


def load_row(dataset: str, recipe: str | None = None) -> Row:
    """The row `config/datasets/<dataset>.yaml` with the recipe laid over it, `extends` followed in both.

    Dicts merge, lists replace. A backbone may be a name or {name, label, options, squeeze: {...}}, a student a name or
    {name, label, options, evaluate: {...}}; the inner settings are laid over the row's. A backbone that a recipe names is
    first looked up among the labels of the row's backbones.

    Raises:
        SettingsError: for an unknown name, a file that is not YAML, or any setting that is wrong.
    """
    raw, origin = read_row(dataset, recipe)
    raw["backbones"] = _expand(raw.get("backbones"), "squeeze", raw.get("squeeze"))
    evaluate = raw.get("evaluate")
    if isinstance(evaluate, dict):
        not_per_student = Evaluate.model_fields.keys() - Training.model_fields.keys()
        shared = {key: value for key, value in evaluate.items() if key not in not_per_student}
        raw["evaluate"] = evaluate | {"students": _expand(evaluate.get("students"), "evaluate", shared)}
    try:
        return Row.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(one_line(error, Row, origin)) from None


def read_row(dataset: str, recipe: str | None = None) -> tuple[Json, dict[Place, Path]]:
    """The merged settings of a row and a recipe, not checked yet, and the file that each of them comes from.

    Raises:
        SettingsError: for an unknown name, or a file that is not YAML.
    """
    origin: dict[Place, Path] = {}
    raw: Json = {}
    for path, part in _read_chain("datasets", dataset, "data set"):
        raw = _merge(raw, part, path, origin)
    if recipe is not None:
        row_backbones = raw.get("backbones")
        for path, part in _read_chain("recipes", recipe, "recipe"):
            raw = _merge(raw, part, path, origin)
        raw["backbones"] = _by_label(raw.get("backbones"), row_backbones)
    return raw, origin


def _find_file(folder: str, name: str, what: str, where: str) -> Path:
    """config/<folder>/<name>.yaml, which must exist; `where` begins the error message."""
    check_name(name, what, where)
    known = sorted(path.stem for path in rows_folder(folder).glob("*.yaml"))
    if name not in known:
        choices = ", ".join(known) or f"none yet, write config/{folder}/{name}.yaml"
        raise SettingsError(f"{where}unknown {what} {name!r}; {did_you_mean(name, known)}choose from {choices}")
    return rows_folder(folder) / f"{name}.yaml"


def _read_chain(folder: str, name: str, what: str) -> list[tuple[Path, Json]]:
    """config/<folder>/<name>.yaml and all files that it extends, directly or not: each after the one that it extends."""
    chain: list[tuple[Path, Json]] = []
    base: Any = name
    while base is not None:
        where = f"{chain[-1][0]}: extends: " if chain else ""
        path = _find_file(folder, base, what, where)
        names = [file.stem for file, _ in chain]
        if base in names:
            raise SettingsError(f"{path}: extends itself by way of {' -> '.join((*names, base))}; remove one extends")
        raw = read_yaml(path)
        chain.append((path, raw))
        base = raw.pop("extends", None)
        if base is not None and not isinstance(base, str):
            raise SettingsError(f"{path}: extends: expected the name of a {what}, got {short(base)}; write a name")
    return chain[::-1]


def _merge(base: Any, over: Any, path: Path, origin: dict[Place, Path], at: Place = ()) -> Any:
    """`over`, the content of `path`, laid over `base`; `origin` receives the file that each setting comes from."""
    if isinstance(base, dict) and isinstance(over, dict):
        # A source of another kind shares nothing with the one it replaces.
        if at == ("source",) and over.get("kind", base.get("kind")) != base.get("kind"):
            base = {}
        merged = dict(base)
        for name, value in over.items():
            merged[name] = _merge(base.get(name, {} if isinstance(value, dict) else None), value, path, origin, (*at, name))
            origin[(*at, name)] = path
        return merged
    return over


def _by_label(names: Any, row_entries: Any) -> Any:
    """A recipe's backbones, their labels replaced by the row's entries: so one recipe fits rows of any image size."""
    if not isinstance(names, list) or not isinstance(row_entries, list):
        return names
    full = [entry if isinstance(entry, dict) else {"name": entry} for entry in row_entries]
    labelled = {entry.get("label", label(str(entry.get("name")))): entry for entry in full}
    return [labelled.get(name, name) if isinstance(name, str) else name for name in names]


def _expand(entries: Any, inner: str, shared: Any) -> Any:
    """Full entries, with `shared` below their own `inner` settings. Malformed parts stay: the typed settings refuse them."""
    if not isinstance(entries, list):
        return entries
    full = []
    for entry in entries:
        if not isinstance(entry, dict):
            entry = {"name": entry}
        own = entry.get(inner, {})
        settings = _merge(shared, own, Path(), {}) if isinstance(own, dict) else own
        full.append({"label": label(str(entry.get("name"))), "options": {}} | entry | {inner: settings})
    return full
