"""Texts by others, line by line: whatever encoding, ends of lines and blanks their editors have left."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from gvbsm.data.first_bytes import BOMS, HEAD, what_it_is
from gvbsm.errors import UserError

_ENDS = re.compile(r"\r\n|\r|\n")  # str.splitlines also splits at characters that a name may hold
_DELIMITERS = ",;\t"  # Excel writes semicolons where the comma is the decimal mark
_NO_TEXTS = ("Git LFS", "git-annex", "HTML", "XML", "empty file")


class Line(NamedTuple):
    """A line that is not blank, without the blanks around it; `where` says file and number."""

    where: str
    text: str

    def columns(self) -> list[str]:
        """What tabs separate, or if there is none, blanks; the number of either does not matter."""
        parts = self.text.split("\t") if "\t" in self.text else self.text.split()
        return [part.strip() for part in parts if part.strip()]


def read_lines(where: str, content: bytes) -> list[Line]:
    """The lines of a text that are not blank.

    Raises:
        UserError: if it is no text, or the answer of a server instead of one.
    """
    lines = enumerate(_ENDS.split(_decode(where, content)), 1)
    return [Line(f"{where}, line {number}", line.strip()) for number, line in lines if line.strip()]


def read_table(where: str, content: bytes, columns: Sequence[str]) -> Iterator[tuple[Line, list[str]]]:
    """The lines of a CSV file with a header, each with its values in `columns`, "" for values that are missing.

    Raises:
        UserError: if it is no such table.
    """
    head, *lines = read_lines(where, content)
    delimiter = max(_DELIMITERS, key=head.text.count)
    names = [name.casefold() for name in _cells(head, delimiter)]
    missing = next((name for name in columns if name.casefold() not in names), None)
    if missing is not None:
        expected = " and ".join(columns)
        got = ", ".join(_cells(head, delimiter))
        raise UserError(f"{head.where}: expected the columns {expected}, got {got}; name the table that has them")
    places = [names.index(name.casefold()) for name in columns]
    for line in lines:
        cells = _cells(line, delimiter)
        yield line, [cells[place] if place < len(cells) else "" for place in places]


def _cells(line: Line, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line.text], delimiter=delimiter, skipinitialspace=True))]
    except csv.Error as error:
        raise UserError(f"{line.where}: expected a line of a table, got {error}; correct it") from None


def _decode(where: str, content: bytes) -> str:
    file_kind = what_it_is(content[:HEAD])
    if file_kind and any(kind in file_kind.what for kind in _NO_TEXTS):
        raise UserError(f"{where}: expected a text, got {file_kind.what}; {file_kind.remedy}")
    text = _decoded(content)
    if "\0" in text:
        raise UserError(
            f"{where}: expected a text, got {file_kind.what if file_kind else 'other bytes'}; put the right file there"
        )
    if not text.strip():
        raise UserError(f"{where}: expected a text, got blanks alone; fetch it again")
    return text


def _decoded(content: bytes) -> str:
    for bom, encoding in BOMS.items():
        if content.startswith(bom):
            return content[len(bom) :].decode(encoding, errors="replace")
    # Without a mark, zeros at every second place tell UTF-16: a text of the files read here is mostly ASCII.
    if len(content) >= 2 and content.count(0) > len(content) // 4:
        return content.decode("utf-16-le" if content[1::2].count(0) > content[::2].count(0) else "utf-16-be", errors="replace")
    for encoding in ("utf-8", "cp1252"):  # cp1252 is what Windows calls Latin-1
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    return content.decode("latin-1")
