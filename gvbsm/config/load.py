"""Loads rows: merges the files of a data set and a recipe with those that they extend, and completes every network's entry."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gvbsm.config.messages import Place, SettingsError, Source, did_you_mean, one_line, place, short
from gvbsm.config.networks import label
from gvbsm.config.row import Evaluate, Row
from gvbsm.config.students import Training
from gvbsm.config.studies import read_study, study_file
from gvbsm.config.targets import check_name
from gvbsm.config.yaml_files import parse_yaml, read_text, row_files
from gvbsm.store.spec import Json


def load_row(dataset: str, recipe: str | None = None) -> Row:
    """The row `config/datasets/<dataset>.yaml` with the recipe laid over it, `extends` followed in both.

    Dicts merge, lists replace. A backbone may be a name or {name, label, options, squeeze: {...}}, a student a name or
    {name, label, options, evaluate: {...}}; the inner settings are laid over the row's. A backbone that a recipe names is
    first looked up among the labels of the row's backbones.

    Raises:
        SettingsError: for an unknown name, a file that is not YAML, or any setting that is wrong.
    """
    return check_row(*read_row(dataset, recipe))


def check_row(merged: Json, origin: dict[Place, Source]) -> Row:
    """The row of the merged settings that `read_row` gives, with their sources.

    Raises:
        SettingsError: if any setting is wrong.
    """
    raw = dict(merged)
    raw["backbones"] = _expand(raw.get("backbones"), "squeeze", raw.get("squeeze"))
    if raw.get("judge") is not None:
        (raw["judge"],) = _expand([raw["judge"]], "squeeze", raw.get("squeeze"))
    evaluate, shared = raw.get("evaluate"), None
    if isinstance(evaluate, dict):
        not_per_student = Evaluate.model_fields.keys() - Training.model_fields.keys()
        shared = {key: value for key, value in evaluate.items() if key not in not_per_student}
        raw["evaluate"] = evaluate | {"students": _expand(evaluate.get("students"), "evaluate", shared)}
    try:
        return Row.model_validate(raw).with_kept_epochs()
    except ValidationError as error:
        raise SettingsError(one_line(_of_section(error, shared), Row, origin)) from None


class _Shared(BaseModel):
    """What the students of a row share."""

    evaluate: Training


def _of_section(error: ValidationError, shared: Json | None) -> ValidationError:
    """The mistake of the section `evaluate` itself, if `error` reports it only of a student that inherits it.

    A section is not checked as a whole while one of its entries is wrong.
    """
    if shared is not None and place(error)[:2] == ("evaluate", "students"):
        try:
            _Shared.model_validate({"evaluate": shared})
        except ValidationError as above:
            return above
    return error


def read_row(dataset: str, recipe: str | None = None) -> tuple[Json, dict[Place, Source]]:
    """The merged settings of a row and a recipe, not checked yet, and the source of each of them.

    Raises:
        SettingsError: for an unknown name, or a file that is not YAML.
    """
    origin: dict[Place, Source] = {}
    raw: Json = {}
    for section in _read_chain("datasets", dataset):
        origin.setdefault((), section.source)  # a row may be without any setting
        raw = _merge(raw, section.settings, section.source, origin)
    if recipe is not None:
        row_backbones = raw.get("backbones")
        for section in _read_chain("recipes", recipe, _split(dataset)[0]):
            raw = _merge(raw, section.settings, section.source, origin)
        if "backbones" in raw:  # or else a check of the row misses them
            raw["backbones"] = _by_label(raw["backbones"], row_backbones)
    return raw, origin


@dataclass(frozen=True)
class _Section:
    """The content of one file, or of one section of a study."""

    settings: Json
    source: Source
    study: str  # whose section it is; "" for a file


_WHAT = {"datasets": "data set", "recipes": "recipe"}


def _read_chain(kind: str, name: str, study: str = "") -> list[_Section]:
    """A row or a recipe and all that it extends, directly or not: each after the one that it extends."""
    chain: list[_Section] = []
    base: Any = name
    while base is not None:
        above = chain[-1] if chain else None
        section = _read_section(kind, base, above.study if above else study, above.source if above else None)
        sources = [section.source for section in chain]
        if section.source in sources:
            names = " -> ".join([*(_name(source) for source in sources), base])
            raise SettingsError(f"{section.source}: extends itself by way of {names}; remove one extends")
        base = section.settings.get("extends")
        if base is not None and not isinstance(base, str):
            raise SettingsError(
                f"{section.source}: extends: expected the name of a {_WHAT[kind]}, got {short(base)}; write a name"
            )
        settings = {setting: value for setting, value in section.settings.items() if setting != "extends"}
        chain.append(replace(section, settings=settings))
    return chain[::-1]


def _read_section(kind: str, name: str, study: str, above: Source | None) -> _Section:
    """The section or file of a name: in this order a section of `study`, `config/<kind>/<name>.yaml`, or `<study>.<section>`.

    `above` is what extends the name. A section of a study may extend the file of its own name, and a file of the working
    directory the one of its own name beside the package.
    """
    what = _WHAT[kind]
    where = f"{above}: extends: " if above else ""
    check_name(name, what, where)
    known = row_files(kind)
    sections = _sections(kind, study)
    if name in sections and (above is None or _source(kind, study, name) != above):
        return _Section(sections[name], _source(kind, study, name), study)
    files = [file for file in known.get(name, []) if above is None or file != above.file]
    if files or name in known:
        file = (files or known[name])[0]
        text = read_text(file)
        return _Section(parse_yaml(file, text), Source(file, text=text), "")
    other, inner = _split(name)
    if inner in _sections(kind, other):
        return _Section(_sections(kind, other)[inner], _source(kind, other, inner), other)
    names = [*sections, *known, *(f"{other}.{section}" for section in _sections(kind, other))]
    if (Path("config") / kind / f"{name}.yml").is_file():
        raise SettingsError(f"{where}unknown {what} {name!r}; rename config/{kind}/{name}.yml to {name}.yaml")
    choices = ", ".join(names) or f"none yet, write config/{kind}/{name}.yaml"
    raise SettingsError(f"{where}unknown {what} {name!r}; {did_you_mean(name, names)}choose from {choices}")


def _split(name: str) -> tuple[str, str]:
    """Study and section of `<study>.<section>`; no study without a dot."""
    study, dot, section = name.partition(".")
    return (study, section) if dot else ("", name)


def _sections(kind: str, study: str) -> dict[str, Json]:
    content = read_study(study) if study else None
    return content.sections(kind) if content else {}


def _source(kind: str, study: str, section: str) -> Source:
    content = read_study(study)
    return Source(study_file(study), ("rows" if kind == "datasets" else "variants", section), content.text if content else "")


def _name(source: Source) -> str:
    return str(source.section[-1]) if source.section else source.file.stem


def _merge(base: Any, over: Any, source: Source, origin: dict[Place, Source], at: Place = ()) -> Any:
    """`over`, the content of `source`, laid over `base`; `origin` receives the source of each setting, the latest last."""
    replaces = not isinstance(over, dict) or not isinstance(base, dict)
    if not replaces and at == ("source",):
        # A source of another kind shares nothing with the one it replaces.
        replaces = over.get("kind", base.get("kind")) != base.get("kind")
    if replaces and isinstance(base, dict):
        for place in [place for place in origin if len(place) > len(at) and place[: len(at)] == at]:
            del origin[place]  # what stood there is gone, and so is its file
    if not isinstance(over, dict):
        return over
    merged = {} if replaces else dict(base)
    for name, value in over.items():
        merged[name] = _merge(merged.get(name), value, source, origin, (*at, name))
        origin.pop((*at, name), None)
        origin[(*at, name)] = source
    return merged


def _by_label(names: Any, row_entries: Any) -> Any:
    """A recipe's backbones, their labels replaced by the row's entries: so one recipe fits rows of any image size."""
    if not isinstance(names, list) or not isinstance(row_entries, list):
        return names
    full = [entry if isinstance(entry, dict) else {"name": entry} for entry in row_entries]
    labels = [entry.get("label", label(str(entry.get("name")))) for entry in full]
    labelled = {name: entry for name, entry in zip(labels, full, strict=True) if isinstance(name, str)}  # others are refused
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
        settings = _merge(shared, own, Source(Path()), {}) if isinstance(own, dict) else own
        full.append({"label": label(str(entry.get("name"))), "options": {}} | entry | {inner: settings})
    return full
