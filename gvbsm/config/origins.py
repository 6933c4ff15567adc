"""The origin of every setting of a row: its file, its line, and the comment that gives the reason for its value."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from gvbsm.config.messages import Place, Source, dotted
from gvbsm.store.spec import Json

_COMMENT = re.compile(r"(\s*)#\s?(.*?)\s*")
_FOR_EDITORS = "# yaml-language-server:"  # the line that names a file's schema


@dataclass(frozen=True)
class Setting:
    """One value of a row with its recipe laid over it."""

    name: str  # dotted, entries of lists as in backbones[0]
    value: Any
    source: Source
    line: int  # from 1; 0 if it is not known
    comment: str  # at the end of its line; for a network without one, the comment where its list begins

    @property
    def file(self) -> Path:
        """The file that gives it."""
        return self.source.file

    @property
    def place(self) -> str:
        """config/<folder>/<name>.yaml:<line>, wherever that folder is."""
        name = in_config(self.file)
        return f"{name}:{self.line}" if self.line else name


@dataclass(frozen=True)
class _Note:
    line: int
    comment: str


def sourced_settings(merged: Json, origin: dict[Place, Source]) -> list[Setting]:
    """Every setting that the files of a row give, in their order, from what `read_row` gives; an optional setting that they do
    not give is off."""
    notes = {file: _notes(text) for file, text in {source.file: source.text for source in origin.values()}.items()}
    settings = []
    for place, value in _leaves(merged) if merged else []:
        source = _source_of(place, origin)
        in_file = (*source.section, *place)
        note = notes[source.file].get(in_file) or _Note(0, "")
        if not note.comment and isinstance(place[-1], int):  # a list's comment counts for its entries
            note = _Note(note.line, notes[source.file].get(in_file[:-1], note).comment)
        settings.append(Setting(dotted(place), value, source, note.line, note.comment))
    return settings


def written_at(origin: Mapping[Place, Source], *place: str | int) -> str:
    """Where a setting that a row has was written: config/<folder>/<name>.yaml: recover.layers."""
    source = _source_of(place, origin)
    return f"{in_config(source.file)}: {dotted((*source.section, *place))}"


def _source_of(place: Place, origin: Mapping[Place, Source]) -> Source:
    return next(origin[place[:length]] for length in range(len(place), -1, -1) if place[:length] in origin)


def in_config(file: Path) -> str:
    """config/<folder>/<name>.yaml, wherever that folder is."""
    return "/".join(file.parts[-3:])


def legend(text: str) -> str:
    """The comment at the top of a file's text, which explains the terms of its other comments; without the line for editors."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith(_FOR_EDITORS):
            lines.append(line.lstrip("# ").rstrip())
    return " ".join(lines)


def _leaves(value: Any, at: Place = ()) -> list[tuple[Place, Any]]:
    """Every value with its place. A list of networks is split into its networks, but each network is one value."""
    if isinstance(value, dict) and value:
        return [leaf for name, item in value.items() for leaf in _leaves(item, (*at, name))]
    if isinstance(value, list) and at[-1:] in (("backbones",), ("students",)):
        return [((*at, index), item) for index, item in enumerate(value)]
    return [(at, value)]


def _notes(text: str) -> dict[Place, _Note]:
    """The line and the comment of every key and list entry of a YAML text."""
    comments = _comments(text)
    notes: dict[Place, _Note] = {}

    def walk(node: yaml.Node | None, at: Place) -> None:
        children: list[tuple[Any, yaml.Node, yaml.Node]] = []
        if isinstance(node, yaml.MappingNode):
            children = [(key.value, key, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            children = [(index, item, item) for index, item in enumerate(node.value)]
        for part, start, value in children:
            line = start.start_mark.line
            ends_on = value.end_mark.line if isinstance(value, yaml.ScalarNode) or getattr(value, "flow_style", False) else line
            notes[*at, part] = _Note(line + 1, comments.get(line) or comments.get(ends_on, ""))
            walk(value, (*at, part))

    walk(yaml.compose(text, Loader=yaml.SafeLoader), ())
    return notes


def _comments(text: str) -> dict[int, str]:
    """Comments at line ends, by line from 0. A comment that continues below, in the same column, is joined to one text."""
    lines = text.splitlines()
    ends: dict[int, int] = {}  # by line: the column after its last token
    inside: set[int] = set()  # lines of a value that continues on the next line: a # there may be part of the value
    for token in yaml.scan(text, Loader=yaml.SafeLoader):
        start, end = token.start_mark, token.end_mark
        if (start.line, start.column) != (end.line, end.column):
            if end.column and lines[end.line][: end.column].strip():  # a block text ends at the start of the next token
                ends[end.line] = max(ends.get(end.line, 0), end.column)
            inside.update(range(start.line, end.line))
    comments: dict[int, str] = {}
    owner, column = None, -1  # line and column of the comment that may continue
    for number, line in enumerate(lines):
        comment = _COMMENT.fullmatch(line, ends.get(number, 0)) if number not in inside else None
        at = comment.end(1) if comment else -1
        if comment and number in ends:
            comments[number], owner, column = comment[2], number, at
        elif comment and owner is not None and at == column:
            comments[owner] += f" {comment[2]}"
        else:
            owner = None
    return comments
