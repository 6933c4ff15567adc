"""What is wrong with settings, in one line: where, expected, got, remedy."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from gvbsm.errors import UserError

Place = tuple[str | int, ...]  # where a setting stands: ("backbones", 2, "squeeze", "lr")


@dataclass(frozen=True)
class Source:
    """What settings are read from: a file, or a section of one."""

    file: Path
    section: Place = ()
    text: str = field(default="", compare=False, repr=False)  # of the file, as it was read; "" of one that is no row's

    def __str__(self) -> str:
        return f"{self.file}: {dotted(self.section)}" if self.section else str(self.file)


class SettingsError(UserError):
    """A mistake in what the user wrote: a setting, a name or a target."""


def one_line(error: ValidationError, model: type[BaseModel], origin: dict[Place, Source]) -> str:
    """The first mistake of a validation, with the file it stands in; `origin` has the latest settings last."""
    text, at = describe(error, model), place(error)
    if at:
        places = [at[:n] for n in range(len(at), 0, -1) if at[:n] in origin]
    else:  # a check of the whole row names settings that do not fit each other: who gave the last of them may not know the rest
        named = {tuple(name.split(".")) for name in re.findall(r"\w+(?:\.\w+)*", text)}
        places = [place for place in reversed(origin) if place in named]
    return f"{origin[places[0]] if places else next(reversed(origin.values()))}: {text}"


def dotted(place: Place) -> str:
    """A place as messages and tables write it: backbones[2].squeeze.lr."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistake of a validation as `setting: expected, got; remedy`."""
    first = _first(error)
    at = place(error)
    where = dotted(at)
    if first["type"] == "extra_forbidden":
        where, _, name = where.rpartition(".")
        fields = _fields_at(model, first["loc"][:-1])
        text = f"unknown setting {short(name)}; {did_you_mean(name, fields)}choose from {', '.join(fields)}"
    elif first["type"] == "union_tag_invalid":
        kind, kinds = first["ctx"]["tag"], [tag.strip(" '") for tag in first["ctx"]["expected_tags"].split(",")]
        text = f"unknown kind {short(kind)}; {did_you_mean(kind, kinds)}choose from {', '.join(kinds)}"
    elif first["type"] == "missing":
        missing = dict.fromkeys(str(name) for *section, name in _missing(error) if (*section,) == first["loc"][:-1])
        if len(missing) > 1:
            where = where.rpartition(".")[0]
            text = f"expected {', '.join(missing)}, got none of them; add these settings"
        else:
            text = "expected a value, got none; add this setting"
    elif first["type"] == "value_error":
        text = first["msg"].removeprefix("Value error, ")
    else:
        expected = re.sub(r"^.*? should (be |have )?", "", first["msg"])
        expected = re.sub(
            r"^a valid dictionary or (instance of \w+|object to extract fields from)$", "settings by name", expected
        )
        is_off = first["input"] is False or first["input"] in ("off", "none")
        remedy = "correct the value; a setting that may be off is switched off by null" if is_off else "correct the value"
        text = f"expected {expected}, got {short(first['input'])}; {remedy}"
    return ": ".join(part for part in (where, text) if part)


def _missing(error: ValidationError) -> list[Place]:
    return [mistake["loc"] for mistake in error.errors(include_url=False) if mistake["type"] == "missing"]


def _first(error: ValidationError) -> Any:
    """The mistake nearest to the top; of several there, an unknown setting before a missing one, as it may be its misspelling.

    A mistake in a section is reported again for every entry that inherits the section.
    """
    return min(error.errors(include_url=False), key=lambda mistake: (len(mistake["loc"]), mistake["type"] != "extra_forbidden"))


def place(error: ValidationError) -> Place:
    """Where the first mistake stands, without the name that pydantic adds for the kind of a source."""
    at = _first(error)["loc"]
    return (at[0], *at[2:]) if at[:1] == ("source",) and len(at) > 2 else tuple(at)


def _fields_at(root: type[BaseModel], loc: Iterable[str | int]) -> list[str]:
    """Names of the settings allowed at `loc`."""
    models = [root]
    for part in loc:
        fields = [model.model_fields[part] for model in models if isinstance(part, str) and part in model.model_fields]
        if fields:
            models = [model for field in fields for model in _models_in(field.annotation)]
        elif len(models) > 1:  # `part` is the kind of a source
            of_kind = [model for model in models if part in typing.get_args(model.model_fields["kind"].annotation)]
            models = of_kind or models
    return [name for model in models for name in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that an annotation names, such as a union or a list of them."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in typing.get_args(annotation) for model in _models_in(inner)]


def did_you_mean(name: str, choices: Iterable[str]) -> str:
    """The question whether the choice most like `name` was meant, with a space after it; "" if none is like it."""
    near = difflib.get_close_matches(name, choices, 1)
    return f"did you mean {near[0]!r}? " if near else ""


def as_in_a_row(value: Any) -> str:
    """A value as a row would have it, in one line; no value is "off"."""
    return "off" if value is None else value if isinstance(value, str) else _yaml(value)


def short(value: Any) -> str:
    """A value as messages show it, in at most 60 characters: as a row would have it, but a text in quotes."""
    return shortened(repr(value) if isinstance(value, str) else _yaml(value))


def shortened(text: str) -> str:
    """A text, cut to 60 characters."""
    return text if len(text) <= 60 else text[:57] + "..."


def _yaml(value: Any) -> str:
    try:
        text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=float("inf"), allow_unicode=True)
    except yaml.YAMLError:  # nothing that a file can hold
        return repr(value)
    return text.removesuffix("\n").removesuffix("\n...")
