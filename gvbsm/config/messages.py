"""What is wrong with settings, in one line: where, expected, got, remedy."""

from __future__ import annotations

import difflib
import re
import typing
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from gvbsm.errors import UserError

Place = tuple[str | int, ...]  # where a setting stands: ("backbones", 2, "squeeze", "lr")


@dataclass(frozen=True)
class Source:
    """What settings are read from: a file, or a section of one."""

    file: Path
    section: Place = ()

    def __str__(self) -> str:
        return f"{self.file}: {dotted(self.section)}" if self.section else str(self.file)


class SettingsError(UserError):
    """What the user got wrong, in one line: where, expected, got, remedy."""


def one_line(error: ValidationError, model: type[BaseModel], origin: dict[Place, Source]) -> str:
    """The first mistake of a validation, with the file it stands in."""
    at = _place(error)
    source = next((origin[at[:n]] for n in range(len(at), -1, -1) if at[:n] in origin), None)
    return f"{source or next(reversed(origin.values()))}: {describe(error, model)}"


def dotted(place: Place) -> str:
    """A place as messages and tables write it: backbones[2].squeeze.lr."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place).removeprefix(".")


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """The first mistake of a validation as `setting: expected, got; remedy`."""
    first = _first(error)
    at = _place(error)
    where = dotted(at)
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
        text = f"expected {expected}, got {short(first['input'])}; correct the value"
    return ": ".join(part for part in (where, text) if part)


def _first(error: ValidationError) -> Any:
    """The mistake nearest to the top, and there a misspelt setting before the one that is missing for it.

    A section's mistake is found again in every entry that takes the section over.
    """
    return min(error.errors(include_url=False), key=lambda mistake: (len(mistake["loc"]), mistake["type"] != "extra_forbidden"))


def _place(error: ValidationError) -> Place:
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


def short(value: Any) -> str:
    """A value as a message shows it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
