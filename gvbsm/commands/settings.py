"""Every setting on the terminal, and the tables and schemas that are made from the same source."""

from __future__ import annotations

import json
import re
import textwrap
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from gvbsm.config.messages import SettingsError, did_you_mean
from gvbsm.config.schema import SCHEMAS, schema
from gvbsm.config.tables import Entry, Section, section_and_parts, sections
from gvbsm.errors import UserError

# <!-- settings:recover lr ema --> asks for a table of these settings of a section, and of what is inside them;
# <!-- settings:recover --> for all those of the section that no such mark names; <!-- settings --> for the list of the pages.
_TABLE = re.compile(r"<!-- settings:(?P<section>[\w.]+)(?P<names>(?: \w+)*) -->\n(?:(?!<!--).*\n)*?<!-- /settings -->")
_INDEX = re.compile(r"<!-- settings -->\n(?:(?!<!--).*\n)*?<!-- /settings -->")
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
    """Write the tables in the pages of a folder `config`, and the schemas beside them; list the files that changed.

    Raises:
        UserError: as `refreshed` does.
    """
    changed = []
    for path, text in refreshed(folder).items():
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            changed.append(str(path))
    return "".join(f"{path}: written\n" for path in changed) or f"{folder}: nothing has changed\n"


def refreshed(folder: Path) -> dict[Path, str]:
    """The files that `refresh` writes, with their new content: README.md, the pages in settings/, and the schemas.

    Raises:
        UserError: if there is no README.md, a page asks for an unknown section or setting, or a setting is not in one table.
    """
    pages = _read_pages(folder)
    tables = _tables(pages)
    _check_that_each_setting_has_one_row(folder, tables)
    files = {}
    for path, text in pages.items():
        text = _filled(_TABLE, text, [table.markdown() for table in tables[path]])
        files[path] = _filled(_INDEX, text, [_index(folder, pages, tables)] * len(_INDEX.findall(text)))
    return files | {folder / "schema" / f"{name}.json": schema_text(name) for name in SCHEMAS}


def _read_pages(folder: Path) -> dict[Path, str]:
    page = folder / "README.md"
    try:
        return {path: path.read_text(encoding="utf-8") for path in (page, *sorted((folder / "settings").glob("*.md")))}
    except OSError as error:
        raise UserError(f"{error.filename}: cannot be read: {error.strerror}; name the folder config of the project") from None


@dataclass(frozen=True)
class _Table:
    """The table that a mark asks for."""

    section: str
    names: list[str]  # of settings, in the mark; [] asks for all that no other mark names
    rows: list[tuple[str, Entry]]  # settings by their name within the section, ema.start

    def markdown(self) -> str:
        lines = ["| setting | value | meaning |", "|---|---|---|"]
        lines += [f"| `{setting}` | {_value(entry)} | {entry.meaning} |" for setting, entry in self.rows]
        return "\n".join(lines) + "\n"


def _tables(pages: dict[Path, str]) -> dict[Path, list[_Table]]:
    """The tables of each page, in their order."""
    marks = [(path, mark["section"], mark["names"].split()) for path, text in pages.items() for mark in _TABLE.finditer(text)]
    named: dict[str, set[str]] = {}
    for _, section, names in marks:
        named.setdefault(section, set()).update(names)
    tables: dict[Path, list[_Table]] = {path: [] for path in pages}
    for path, section, names in marks:
        try:
            name = section_and_parts(section)[0].name  # `judge` has the settings of `backbones`
            tables[path].append(_Table(name, names, _rows(name, names, named[section])))
        except SettingsError as error:
            raise UserError(f"{path}: {error}") from None
    return tables


def _rows(name: str, names: list[str], named: set[str]) -> list[tuple[str, Entry]]:
    """The settings `names` of a section, or all but those that are `named` elsewhere."""
    shown = section_and_parts(name)
    known = [entry.name for entry in shown[0].entries]
    for setting in names:
        if setting not in known:
            hint = did_you_mean(setting, known)
            raise SettingsError(f"unknown setting {setting!r} of {name}; {hint}choose from {', '.join(known)}")
    rows = []
    for section in shown:
        above = section.name.removeprefix(shown[0].name).removeprefix(".")
        rows += [(f"{above}.{entry.name}" if above else entry.name, entry) for entry in section.entries]
    first = [setting.partition(".")[0] for setting, _ in rows]
    return [row for row, own in zip(rows, first, strict=True) if (own in names if names else own not in named)]


def _check_that_each_setting_has_one_row(folder: Path, tables: dict[Path, list[_Table]]) -> None:
    shown = Counter(
        setting
        for table in (table for some in tables.values() for table in some)
        for setting in {f"{table.section}.{setting}" for setting, _ in table.rows}
    )
    for section in sections().values():
        for entry in section.entries:
            setting = f"{section.name}.{entry.name}"
            if shown[setting] != 1:
                mark = f"<!-- settings:{setting.partition('.')[0]} -->"
                remedy = (
                    f"take one of the marks {mark} away" if shown[setting] else f"add {mark} and <!-- /settings --> to a page"
                )
                raise UserError(
                    f"{folder / 'settings'}: expected one table with {setting}, got {shown[setting]}; {remedy} there"
                )


def _index(folder: Path, pages: dict[Path, str], tables: dict[Path, list[_Table]]) -> str:
    """A line for each page with tables: its heading, and what they hold. Pages are in the order of their first sections."""
    order = [*sections()]

    def place(path: Path) -> tuple[int, bool]:
        first = tables[path][0]
        return order.index(first.section), bool(first.names)

    lines = []
    for path in sorted((path for path in pages if tables[path]), key=place):
        heading = pages[path].partition("\n")[0].removeprefix("# ")
        held = [f"`{table.section}`" + (f" ({', '.join(table.names)})" if table.names else "") for table in tables[path]]
        lines.append(f"| [{heading}]({path.relative_to(folder).as_posix()}) | {'; '.join(held)} |")
    return "\n".join(["| page | sections |", "|---|---|", *lines]) + "\n"


def _filled(marks: re.Pattern[str], text: str, contents: list[str]) -> str:
    """A page with these contents between its marks, in their order."""
    waiting = iter(contents)
    return marks.sub(lambda mark: f"{mark[0].splitlines()[0]}\n{next(waiting)}<!-- /settings -->", text)


def _value(entry: Entry) -> str:
    """Type, bounds and unit in one cell."""
    bounds = entry.bounds and f"{entry.bounds} {entry.unit}".rstrip()
    if entry.kind.startswith("choice"):
        choices = ", ".join(f"`{choice}`" for choice in bounds.split(", "))
        return choices + entry.kind.removeprefix("choice")
    return ": ".join(part for part in (entry.kind, bounds) if part)
