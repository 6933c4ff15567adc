"""The page: one file, with no script in it and nothing to fetch. Its text and its HTML are in the templates beside this."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from gvbsm.format import readable_bytes, readable_seconds, readable_seeds, readable_spread
from gvbsm.pictures.names import kind_name, run_title
from gvbsm.report.background import read_cost, read_provenance, read_settings
from gvbsm.report.results import read_accuracies, read_classes, read_facts, read_pictures
from gvbsm.store.files import write_text
from gvbsm.store.run import REPORT, Margin, Published, Spread, read_published


def report(run: Path, out: Path | None = None) -> str:
    """Write the page of a published run, beside its acc.json unless `out` says where; the line that says so.

    It is made of acc.json, classes.csv, images.png, the pictures that are there and the files in config/: the same of the same.

    Raises:
        UserError: if the run is not published, or a file is not what publish writes.
    """
    published = read_published(run)
    file = out or published.folder / REPORT
    write_text(file, page(published))
    return f"{file}\n"


def page(published: Published) -> str:
    """The HTML of a run.

    Raises:
        UserError: if classes.csv is not what publish writes.
    """
    accuracies = published.accuracies
    return (
        environment()
        .get_template("page.html.j2")
        .render(
            title=run_title(accuracies["dataset"], accuracies["ipc"], accuracies["recipe"]),
            distilled=kind_name("distilled"),
            facts=read_facts(published),
            accuracies=read_accuracies(published),
            pictures=read_pictures(published),
            classes=read_classes(published),
            settings=read_settings(published),
            cost=read_cost(published),
            provenance=read_provenance(published),
        )
    )


def environment() -> Environment:
    """What renders the page's templates: every value is escaped, and a name that has no value is an error."""
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "count": _count,
        "decimals": _decimals,
        "name_parts": _name_parts,
        "readable_bytes": readable_bytes,
        "readable_seconds": readable_seconds,
        "readable_seeds": readable_seeds,
        "margin": _margin,
        "spread": _spread,
    }
    return made


def _count(number: float) -> str:
    """A whole number, in groups of three digits."""
    return f"{number:,.0f}"


def _decimals(percent: float) -> str:
    return f"{percent:.2f}"


def _name_parts(name: str) -> list[str]:
    """A dotted name or a path, cut after each of its marks."""
    return re.split(r"(?<=[._/])", name)


def _margin(over: Margin) -> str:
    return readable_spread(over.mean, over.std, "+")


def _spread(accuracy: Spread) -> str:
    return readable_spread(accuracy["mean"], accuracy["std"])
