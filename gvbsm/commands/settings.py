"""Every setting on the terminal, and the tables and schemas that are made from the same source."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path

from gvbsm.config.schema import SCHEMAS, schema
from gvbsm.config.tables import Entry, Section, section_and_parts, sections
from gvbsm.errors import UserError

_TABLE = re.compile(r"<!-- settings:(?P<name>[\w.]+) -->\n(?P<table>(?:(?!<!--).*\n)*?)<!-- /settings -->")
_LEAST_WIDTH = 30  # of the column of meanings


def settings(name: str | None, width: int) -> str:
    """Tables of a section and those inside it, or of all sections, at most `width` columns wide where possible.

    Raises:
        SettingsError: for an unknown name.
    """
    shown = section_and_parts(name) if name else list(sections().values())
    return "\n".join(_table(section, width) for section in shown)


def _table(section: Section, width: int) -> str:
    head = Entry("setting", "type", "bounds", "unit", "meaning")
    lines = [(entry.name, entry.kind, entry.bounds, entry.unit) for entry in (head, *section.entries)]
    widths = [max(len(line[column]) for line in lines) for column in range(4)]
    indent = sum(widths) + 2 * len(widths)
    text = [f"{section.name}: {section.meaning}"]
    for line, entry in zip(lines, (head, *section.entries), strict=True):
        start = "".join(f"{word:<{size}}  " for word, size in zip(line, widths, strict=True))
        meaning = textwrap.wrap(
            entry.meaning, max(width - indent, _LEAST_WIDTH), break_long_words=False, break_on_hyphens=False
        )
        text += [start + meaning[0], *(" " * indent + more for more in meaning[1:])]
    return "\n".join(line.rstrip() for line in text) + "\n"


def schema_text(name: str) -> str:
    """A JSON schema as its file holds it."""
    return json.dumps(schema(name), indent=2, ensure_ascii=False) + "\n"


def refresh(folder: Path) -> str:
    """Write the tables in the README.md of a folder `config`, and the schemas beside it; list the files that changed.

    Raises:
        UserError: if there is no such README.md, or it asks for the table of an unknown section.
    """
    changed = []
    for path, text in refreshed(folder).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(str(path))
    return "".join(f"{path}: written\n" for path in changed) or f"{folder}: nothing has changed\n"


def refreshed(folder: Path) -> dict[Path, str]:
    """The files that `refresh` writes, with their new content.

    Raises:
        UserError: as `refresh` does.
    """
    page = folder / "README.md"
    try:
        text = page.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{page}: cannot be read: {error.strerror}; name the folder config of the project") from None
    files = {page: _TABLE.sub(lambda match: _with_table(match["name"]), text)}
    return files | {folder / "schema" / f"{name}.json": schema_text(name) for name in SCHEMAS}


def _with_table(name: str) -> str:
    return f"<!-- settings:{name} -->\n{markdown(name)}<!-- /settings -->"


def markdown(name: str) -> str:
    """One Markdown table of a section and those inside it.

    Raises:
        SettingsError: for an unknown name.
    """
    lines = ["| setting | value | meaning |", "|---|---|---|"]
    for section in section_and_parts(name):
        above = section.name.removeprefix(name).removeprefix(".")
        for entry in section.entries:
            setting = f"{above}.{entry.name}" if above else entry.name
            lines.append(f"| `{setting}` | {_value(entry)} | {entry.meaning} |")
    return "\n".join(lines) + "\n"


def _value(entry: Entry) -> str:
    """Type, bounds and unit in one cell."""
    bounds = entry.bounds and f"{entry.bounds} {entry.unit}".rstrip()
    if entry.kind.startswith("choice"):
        choices = ", ".join(f"`{choice}`" for choice in bounds.split(", "))
        return choices + entry.kind.removeprefix("choice")
    return ": ".join(part for part in (entry.kind, bounds) if part)
