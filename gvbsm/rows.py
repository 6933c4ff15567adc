"""Configuration files to settings: extends, recipes, overrides, and one line for whatever is wrong with them."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from gvbsm.errors import UserError
from gvbsm.keys import PACKAGE
from gvbsm.network_names import label
from gvbsm.settings import Config, Evaluate, Row, Training

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # of data sets and recipes: they become folders, and stand in commands

Path_ = tuple[str | int, ...]  # where a setting stands: ("backbones", 2, "squeeze", "lr")


class SettingsError(UserError):
    """What the user got wrong, in one line: where, expected, got, remedy."""


def config_folder() -> Path:
    """`config/` of the working directory, or else the one beside the package."""
    here = Path("config")
    return here if here.is_dir() else PACKAGE.parent / "config"


def load_config(values: dict[str, Any] | None = None) -> Config:
    """config.yaml as typed settings; `values` are Snakemake's, when it has read the file and --config already.

    Raises:
        SettingsError: for anything wrong in it.
    """
    path = config_folder() / "config.yaml"
    raw = _read_yaml(path) if values is None else values
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(_one_line(error, Config, {(): path})) from None
    for index, target in enumerate(config.targets):
        try:
            parse_target(target)
        except SettingsError as error:
            raise SettingsError(f"{path}: targets[{index}]: {error}") from None
    return config


def parse_target(target: str) -> tuple[str, int, str | None]:
    """Data set, IPC and recipe of `results/<dataset>/ipc<N>[-<recipe>]/acc.json`.

    Raises:
        SettingsError: if it has another form or IPC is not at least 1.
    """
    form = "results/<dataset>/ipc<N>[-<recipe>]/acc.json"
    parts = Path(target).parts
    if len(parts) < 3 or ".." in parts or parts[-1] not in ("acc.json", "table.csv", "classes.csv", "images.png"):
        raise SettingsError(f"target {target!r}: expected {form}; ask for a path of this form")
    _check_name(parts[-3], "data set")
    return parts[-3], *parse_run(parts[-2])


def parse_run(run: str) -> tuple[int, str | None]:
    """IPC and recipe of `ipc<N>` or `ipc<N>-<recipe>`.

    Raises:
        SettingsError: if it has another form or IPC is not at least 1.
    """
    match = re.fullmatch(r"ipc(0|-?[1-9]\d*)(?:-([A-Za-z0-9][A-Za-z0-9_.-]*))?", run)
    if match is None:
        raise SettingsError(f"run {run!r}: expected ipc<N> or ipc<N>-<recipe>, such as ipc10; correct the target")
    ipc = int(match[1])
    if not 1 <= ipc <= 100_000:
        raise SettingsError(f"run {run!r}: expected 1 to 100000 images per class, got {ipc}; correct the target")
    return ipc, match[2]


def load_row(dataset: str, recipe: str | None = None) -> Row:
    """The row `config/datasets/<dataset>.yaml` with the recipe laid over it, `extends` followed in both.

    Dicts merge, lists replace. A backbone may be a name or {name, label, options, squeeze: {...}}, a student a name or
    {name, label, options, evaluate: {...}}; the inner settings are laid over the row's. A recipe's name of a backbone is
    first looked for among the labels of the row's.

    Raises:
        SettingsError: for an unknown name, a file that is not YAML, or any setting that is wrong.
    """
    origin: dict[Path_, Path] = {}
    raw: dict[str, Any] = {}
    for path, part in _read_chain("datasets", dataset, "data set"):
        raw = _merge(raw, part, path, origin)
    if recipe is not None:
        row_backbones = raw.get("backbones")
        for path, part in _read_chain("recipes", recipe, "recipe"):
            raw = _merge(raw, part, path, origin)
        raw["backbones"] = _by_label(raw.get("backbones"), row_backbones)
    raw["backbones"] = _expand(raw.get("backbones"), "squeeze", raw.get("squeeze"))
    evaluate = raw.get("evaluate")
    if isinstance(evaluate, dict):
        of_all = Evaluate.model_fields.keys() - Training.model_fields.keys()
        shared = {key: value for key, value in evaluate.items() if key not in of_all}
        raw["evaluate"] = evaluate | {"students": _expand(evaluate.get("students"), "evaluate", shared)}
    try:
        return Row.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(_one_line(error, Row, origin)) from None


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key_node.value!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(str(key_node.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"), list("-+.0123456789")
)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(f"{path}{line}: not valid YAML: {error.problem}; correct this line") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SettingsError(f"{path}: cannot be read: {reason}; restore the file") from None
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: expected settings (key: value), got {_short(raw)}; write them or restore the file")
    return raw


def _check_name(name: str, what: str, asked_by: str = "") -> None:
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{asked_by}{what} {name!r}: expected letters, digits, '_', '.' and '-', a letter or digit first; correct the name"
        )


def _named(folder: str, name: str, what: str, asked_by: str = "") -> Path:
    """config/<folder>/<name>.yaml."""
    _check_name(name, what, asked_by)
    known = sorted(path.stem for path in (config_folder() / folder).glob("*.yaml"))
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        choices = ", ".join(known) or f"none yet, write config/{folder}/{name}.yaml"
        raise SettingsError(f"{asked_by}unknown {what} {name!r}; {hint}choose from {choices}")
    return config_folder() / folder / f"{name}.yaml"


def _read_chain(folder: str, name: str, what: str) -> list[tuple[Path, dict[str, Any]]]:
    """config/<folder>/<name>.yaml after what it extends, that after what it extends itself, and so on."""
    chain: list[tuple[Path, dict[str, Any]]] = []
    base: Any = name
    while base is not None:
        asked_by = f"{chain[-1][0]}: extends: " if chain else ""
        path = _named(folder, base, what, asked_by)
        above = [one.stem for one, _ in chain]
        if base in above:
            raise SettingsError(f"{path}: extends itself by way of {' -> '.join((*above, base))}; remove one extends")
        raw = _read_yaml(path)
        chain.append((path, raw))
        base = raw.pop("extends", None)
        if base is not None and not isinstance(base, str):
            raise SettingsError(f"{path}: extends: expected the name of a {what}, got {_short(base)}; write a name")
    return chain[::-1]


def _merge(base: Any, over: Any, path: Path, origin: dict[Path_, Path], at: Path_ = ()) -> Any:
    """`over` laid over `base`, noting in `origin` which file each part came from."""
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


def _by_label(names: Any, entries: Any) -> Any:
    """A recipe's names of backbones as the row's entries of these labels, so that it fits rows of any size."""
    if not isinstance(names, list) or not isinstance(entries, list):
        return names
    full = [entry if isinstance(entry, dict) else {"name": entry} for entry in entries]
    labelled = {entry.get("label", label(str(entry.get("name")))): entry for entry in full}
    return [labelled.get(name, name) if isinstance(name, str) else name for name in names]


def _expand(entries: Any, inner: str, shared: Any) -> Any:
    """Names to full entries; whatever is not well-formed is left for the typed settings to refuse."""
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


def _one_line(error: ValidationError, model: type[BaseModel], origin: dict[Path_, Path]) -> str:
    """The first mistake of a validation, with the file it stands in."""
    at = _place(error)
    file = next((origin[at[:n]] for n in range(len(at), -1, -1) if at[:n] in origin), None)
    return f"{file or next(reversed(origin.values()))}: {describe(error, model)}"


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistake of a validation as `setting: expected, got; remedy`."""
    first = _first(error)
    at = _place(error)
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in at).lstrip(".")
    if first["type"] == "extra_forbidden":
        where, _, name = where.rpartition(".")
        fields = _fields_at(model, first["loc"][:-1])
        near = difflib.get_close_matches(name, fields, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        text = f"unknown setting {name!r}; {hint}choose from {', '.join(fields)}"
    elif first["type"] == "union_tag_invalid":
        kinds = [kind.strip(" '") for kind in first["ctx"]["expected_tags"].split(",")]
        near = difflib.get_close_matches(first["ctx"]["tag"], kinds, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        text = f"unknown kind {first['ctx']['tag']!r}; {hint}choose from {', '.join(kinds)}"
    elif first["type"] == "missing":
        text = "expected a value, got none; add this setting"
    elif first["type"] == "value_error":
        text = first["msg"].removeprefix("Value error, ")
    else:
        expected = re.sub(r"^.*? should (be |have )?", "", first["msg"])
        text = f"expected {expected}, got {_short(first['input'])}; correct the value"
    return ": ".join(part for part in (where, text) if part)


def _first(error: ValidationError) -> Any:
    """The mistake nearest to the top, and there a misspelt setting before the one that is missing for it.

    A section's mistake is found again in every entry that takes the section over.
    """
    return min(error.errors(include_url=False), key=lambda mistake: (len(mistake["loc"]), mistake["type"] != "extra_forbidden"))


def _place(error: ValidationError) -> Path_:
    """Where the first mistake stands, without the name that pydantic adds for the kind of a source."""
    at = _first(error)["loc"]
    return (at[0], *at[2:]) if at[:1] == ("source",) and len(at) > 2 else tuple(at)


def _fields_at(model: type[BaseModel], loc: Iterable[str | int]) -> list[str]:
    """Names of the settings allowed at `loc`."""
    current = [model]
    for part in loc:
        if isinstance(part, str) and any(part in one.model_fields for one in current):
            annotations = [one.model_fields[part].annotation for one in current if part in one.model_fields]
            current = [found for annotation in annotations for found in _models_in(annotation)]
        elif len(current) > 1:  # the tag of one kind of source
            kinds = [one for one in current if part in typing.get_args(one.model_fields["kind"].annotation)]
            current = kinds or current
    return [name for one in current for name in one.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in typing.get_args(annotation) for found in _models_in(inner)]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
