"""HTML as text in which whatever is not markup already is escaped."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

_VOID = ("img", "link", "meta", "wbr")
_TYPES = {".png": "image/png", ".svg": "image/svg+xml"}


class Markup(str):
    """Text that is HTML."""


Content = str | int | float | Markup | None


def tag(name: str, /, *children: Content, **attributes: str | int | None) -> Markup:
    """An element; children that are not Markup are text, and what is None is left out. `class_` is `class`."""
    told = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    start = name + "".join(f' {key}="{html.escape(str(value))}"' for key, value in told.items())
    if name in _VOID:
        return Markup(f"<{start}>")
    return Markup(f"<{start}>{joined(*children)}</{name}>")


def joined(*children: Content) -> Markup:
    """Children one after the other."""
    shown = (child if isinstance(child, Markup) else html.escape(str(child)) for child in children if child is not None)
    return Markup("".join(shown))


def name_of(text: str) -> Markup:
    """A dotted name or a path, that may go on in the next line after its parts."""
    return tag("code", *(joined(part, tag("wbr") if part in (".", "_", "/") else None) for part in re.split(r"([._/])", text)))


def lines(children: Iterable[Markup]) -> Markup:
    """Elements, each on a line of its own."""
    return Markup("\n".join(children))


def section(name: str, title: str, *children: Content) -> Markup:
    """A part of the page with a heading, that a link can point to."""
    return tag("section", Markup("\n"), tag("h2", title, id=name), Markup("\n"), *children, Markup("\n"), aria_labelledby=name)


def table(
    caption: Content,
    head: Sequence[str],
    groups: Mapping[str, Iterable[Sequence[Content]]],
    numbers: Iterable[int] = (),
    foot: Sequence[Content] | None = None,
    kind: str | None = None,
) -> Markup:
    """A table whose rows begin with their names, in a frame that is scrolled sideways where it is too narrow.

    `groups` are rows by the heading that stands over them, "" for none; `numbers` the columns that are set flush right;
    `foot` a last row, of totals.
    """
    right = set(numbers)

    def row(cells: Sequence[Content], heads: bool = False) -> Markup:
        made = []
        for column, cell in enumerate(cells):
            scope = "col" if heads else "row" if column == 0 else None
            made.append(tag("th" if scope else "td", cell, scope=scope, class_="n" if column in right else None))
        return tag("tr", *made)

    parts = [tag("thead", row(head, heads=True))]
    for name, rows in groups.items():
        title = [tag("tr", tag("th", name, scope="rowgroup", colspan=len(head)), class_="group")] if name else []
        parts.append(tag("tbody", lines([*title, *(row(one) for one in rows)])))
    if foot:
        parts.append(tag("tfoot", row(foot)))
    # Reached by the keyboard, so that it can be scrolled by it; what is said of it stays in sight meanwhile.
    frame = tag("div", tag("table", lines(parts), class_=kind), class_="scroll", tabindex=0)
    return tag("figure", tag("figcaption", caption) if caption else None, frame)


def terms(pairs: Iterable[tuple[Content, Content]], kind: str | None = None) -> Markup:
    """A list of terms and what they are."""
    return tag("dl", lines(tag("div", tag("dt", term), tag("dd", said)) for term, said in pairs), class_=kind)


def picture(file: Path, alt: str, caption: Content) -> Markup:
    """A figure that holds the content of an image file (.png, .svg)."""
    content = base64.b64encode(file.read_bytes()).decode()
    image = tag("img", src=f"data:{_TYPES[file.suffix]};base64,{content}", alt=alt)
    return tag("figure", image, tag("figcaption", caption))


def folded(title: str, *children: Content) -> Markup:
    """What is shown when its title is clicked."""
    return tag("details", tag("summary", title), Markup("\n"), *children)
