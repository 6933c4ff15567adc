"""Every setting with its type, bounds, unit and meaning, section by section, read from the schemas."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from gvbsm.config.messages import SettingsError, did_you_mean
from gvbsm.config.schema import schema
from gvbsm.store.spec import Json

_LAST = ("seed", "threads", "precision")  # every stage has them
_KINDS = {
    "integer": ("whole number", "whole numbers"),
    "number": ("number", "numbers"),
    "boolean": ("true or false", "true or false"),
    "string": ("text", "texts"),
    "object": ("object", "objects"),
    "choice": ("choice", "choices"),
}


@dataclass(frozen=True)
class Entry:
    """One setting as tables show it."""

    name: str
    kind: str  # in words
    bounds: str  # in words, "" if every value of the kind is valid
    unit: str  # "" for none
    meaning: str


@dataclass(frozen=True)
class Section:
    """Settings that stand together in a file."""

    name: str  # row, recover, recover.ema, config
    meaning: str
    entries: tuple[Entry, ...]


def sections() -> dict[str, Section]:
    """All sections by name: `row` and its sections, in the order of their settings, then `config` and its sections."""
    return _sections()[0]


@cache
def _sections() -> tuple[dict[str, Section], dict[str, str]]:
    """The sections, and the names of those that have only settings of another one, with its name: judge -> backbones."""
    known: dict[str, Section] = {}
    same: dict[str, str] = {}
    for name in ("row", "config"):
        root = schema(name)
        _collect(name, [root], root["$defs"], known, same, [])
    return known, same


def section_and_parts(name: str) -> list[Section]:
    """A section and those inside it; `row` is its own settings alone. Of one that has only settings of another, that one.

    Raises:
        SettingsError: if there is none of this name.
    """
    known, same = _sections()
    name = same.get(name, name)
    if name not in known:
        near = next((section for section in known if section.endswith(f".{name}")), name)
        raise SettingsError(f"unknown section {name!r}; {did_you_mean(near, known)}choose from {', '.join(known)}")
    return [section for path, section in known.items() if path == name or path.startswith(f"{name}.")]


def _collect(
    name: str, kinds: list[Json], models: Json, known: dict[str, Section], same: dict[str, str], seen: list[tuple[str, Json]]
) -> None:
    """Add a section to `known`, and then those of its settings that are sections, or to `same` those that have only settings
    `seen` in another one.

    A source is one section of several kinds.
    """
    about = kinds[0]["description"] if len(kinds) == 1 else "Where images come from; every kind has its own settings."
    known[name] = Section(name, " ".join(about.split("\n\n")[0].split()), tuple(_entries(kinds, models)))
    for kind in kinds:
        seen.append((name, kind["properties"]))
        for key, node in kind["properties"].items():
            inner = [models[model] for model in _references(node)]
            if not inner:
                continue
            path = key if name == "row" else f"{name}.{key}"
            met = [where for where, properties in seen if inner[0]["properties"].items() <= properties.items()]
            if met:
                same.setdefault(path, met[0])
            else:
                _collect(path, inner, models, known, same, seen)


def _references(node: Json) -> list[str]:
    """Names of the models that a setting, or an entry of its list, may be."""
    inner = [node["items"]] if "items" in node else node.get("anyOf", [])
    own = [node["$ref"].rpartition("/")[2]] if "$ref" in node else []
    return own + [model for part in inner for model in _references(part)]


def _entries(kinds: list[Json], models: Json) -> list[Entry]:
    """The settings of a section. The meaning of a setting that only some of the kinds have begins with these kinds."""
    where: dict[tuple[str, str], list[str]] = {}
    nodes: dict[tuple[str, str], list[Json]] = {}
    for kind in kinds:
        for name, node in kind["properties"].items():
            meaning = node.get("description") or models[_references(node)[0]]["description"]
            where.setdefault((name, meaning), []).extend(_choices(kind["properties"].get("kind", {})))
            nodes.setdefault((name, meaning), []).append(node)
    entries = []
    for (name, meaning), same in nodes.items():
        if name == "kind" and len(kinds) > 1:
            same = [{"enum": [choice for node in same for choice in _choices(node)]}]
        elif len(same) < len(kinds):
            meaning = f"({', '.join(where[name, meaning])}) {meaning}"
        entries.append(Entry(name, _kind(same[0]), _bounds(same[0]), _unit(same[0]), meaning))
    return sorted(entries, key=lambda entry: entry.name in _LAST and _LAST.index(entry.name) + 1)


def _choices(node: Json) -> list[str]:
    return [node["const"]] if "const" in node else node.get("enum", [])


def _variants(node: Json) -> list[Json]:
    """The alternatives that a setting allows, without null."""
    return [variant for variant in node.get("anyOf", [node]) if variant.get("type") != "null"]


def _kind(node: Json, number: int = 0) -> str:
    """The type of a setting in words: in the singular if `number` is 0, in the plural if it is 1."""
    words = list(dict.fromkeys(_kind_of_variant(variant, number) for variant in _variants(node)))
    return " or ".join([*words, "null"] if {"type": "null"} in node.get("anyOf", []) else words)


def _kind_of_variant(node: Json, number: int) -> str:
    if node.get("type") == "array":
        return f"{('list', 'lists')[number]} of {_kind(node['items'], 1)}"
    return _KINDS["object" if "$ref" in node else "choice" if _choices(node) else node["type"]][number]


def _bounds(node: Json) -> str:
    """The bounds of a setting in words."""
    return "; ".join(bounds for variant in _variants(node) if (bounds := _bounds_of_variant(variant)))


def _bounds_of_variant(node: Json) -> str:
    if node.get("type") != "array":
        return ", ".join(_choices(node)) or _interval(node)
    least, most = node.get("minItems"), node.get("maxItems")
    length = f"{least}" if least == most else f"{least} to {most}" if most else f"{least} or more"
    of_each = ("of " if _choices(node["items"]) else "") + _bounds(node["items"])
    return ", each ".join(part for part in ("" if least is None else f"{length} entries", of_each) if part)


def _interval(node: Json) -> str:
    above, below = node.get("exclusiveMinimum"), node.get("exclusiveMaximum")
    least, most = node.get("minimum"), node.get("maximum")
    if node.get("type") == "integer" and below is not None:
        most, below = below - 1, None
    if least is not None and most is not None:
        return f"{_number(least)} to {_number(most)}"
    words = (("above", above), ("at least", least), ("below", below), ("at most", most))
    return ", ".join(f"{word} {_number(bound)}" for word, bound in words if bound is not None)


def _number(bound: float) -> str:
    return f"{int(bound):,}" if bound == int(bound) else f"{bound:g}"


def _unit(node: Json) -> str:
    inner = [unit for part in (*node.get("anyOf", []), *([node["items"]] if "items" in node else [])) if (unit := _unit(part))]
    return node.get("unit", inner[0] if inner else "")
