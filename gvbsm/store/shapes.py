"""Whether a value read from JSON has the form that a TypedDict or another type says, all the way down."""

from __future__ import annotations

import types
import typing
from typing import Any


def has_form(value: Any, form: Any) -> bool:
    """Whether a JSON value is of a type: a TypedDict, dict[str, ...], list[...], a union, or a plain type. Entries that a
    TypedDict does not name may be there; an integer is a float too, and a boolean is neither."""
    origin, inner = typing.get_origin(form), typing.get_args(form)
    if form is Any:
        return True
    if origin in (typing.NotRequired, typing.Required):
        return has_form(value, inner[0])
    if origin in (typing.Union, types.UnionType):
        return any(has_form(value, one) for one in inner)
    if typing.is_typeddict(form):
        return isinstance(value, dict) and all(
            has_form(value[name], hint) if name in value else typing.get_origin(hint) is typing.NotRequired
            for name, hint in typing.get_type_hints(form, include_extras=True).items()
        )
    if origin is dict:
        return isinstance(value, dict) and all(has_form(item, inner[1]) for item in value.values())
    if origin is list:
        return isinstance(value, list) and all(has_form(item, inner[0]) for item in value)
    if form in (int, float):
        return isinstance(value, (int, form)) and not isinstance(value, bool)
    return isinstance(value, type(None) if form is None else form)
