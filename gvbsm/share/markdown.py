"""What renders the Markdown templates: every value is escaped for Markdown, and a name that has no value is an error."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined
from markupsafe import Markup


def environment() -> Environment:
    """Jinja2 that escapes by `plain`; what goes into code or YAML is made safe by a filter instead.

    Jinja2 leaves `Markup` as it is: here that class says that a text is Markdown, not HTML.
    """
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        finalize=_escaped,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {"arguments": _arguments, "code": _code, "count": _count, "literal": _literal, "yaml": _yaml}
    return made


def plain(text: str) -> str:
    """A text that Markdown and HTML show as it is: marks as entities, no line breaks, nothing that turns the writing around."""
    shown = "".join(" " if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") else letter for letter in text)
    return re.sub(r"[]&<>*_`[\\|~$@#{}]", lambda mark: f"&#{ord(mark[0])};", shown)


def _escaped(value: Any) -> Markup:
    return value if isinstance(value, Markup) else Markup(plain(str(value)))


def _count(number: int) -> str:
    """A whole number, in groups of three digits."""
    return f"{number:,}"


def _code(name: str) -> Markup:
    """A name between backticks, where entities are not read.

    Raises:
        ValueError: if it is more than letters, digits, underscores and dots.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.]+", name):
        raise ValueError(f"expected a name of letters, digits, underscores and dots, got {name!r}")
    return Markup(f"`{name}`")


def _defined(value: Any) -> Any:
    """The value, or the error of a name that has none: `repr` and YAML's dumper do not raise it."""
    return str(value) if isinstance(value, Undefined) else value


def _literal(value: Any) -> Markup:
    """A value as Python reads it, for a block of code: in one line, so that it does not end the block."""
    return Markup(repr(_defined(value)))


def _arguments(values: dict[str, Any]) -> Markup:
    """Keyword arguments of a call in a block of code, which follow another argument."""
    given = [f"{name}={value!r}" if name.isidentifier() else f"**{ {name: value}!r}" for name, value in values.items()]
    return Markup("".join(f", {argument}" for argument in given))


def _yaml(value: Any) -> Markup:
    """Lines of YAML."""
    return Markup(yaml.dump(_defined(value), Dumper=_Dumper, sort_keys=False, width=10**6))


class _Dumper(yaml.SafeDumper):
    """YAML in which no text ends a line or leaves ASCII, so that none ends the front matter."""


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if re.search(r"[^ -~]", text) else None)


_Dumper.add_representer(str, _quoted)
