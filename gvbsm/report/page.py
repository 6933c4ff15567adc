"""The page: one file, with no script in it and nothing to fetch."""

from __future__ import annotations

from pathlib import Path

from gvbsm.pictures.names import run_title
from gvbsm.report.background import cost_section, provenance_section, settings_section
from gvbsm.report.markup import Markup, lines, tag
from gvbsm.report.results import accuracies_section, classes_section, facts, pictures_section
from gvbsm.report.style import STYLE
from gvbsm.store.files import write_text
from gvbsm.store.run import read_published

_SECTIONS = {
    "accuracies": "Accuracies",
    "pictures": "Pictures",
    "classes": "By class",
    "settings": "Settings",
    "cost": "Cost",
    "provenance": "Provenance",
}
_METHOD = "https://arxiv.org/abs/2311.17950"
# A browser is told to fetch nothing and to run nothing, whatever stands below.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def report(run: Path, out: Path | None = None) -> str:
    """Write the page of a published run, beside its acc.json unless `out` says where; the line that says so.

    It is made of acc.json, classes.csv, images.png, the pictures that are there and the files in config/: the same of the same.

    Raises:
        UserError: if the run is not published, or a file is not what publish writes.
    """
    published = read_published(run)
    accuracies = published.accuracies
    title = run_title(accuracies["dataset"], accuracies["ipc"], accuracies["recipe"])
    links = lines(tag("li", tag("a", shown, href=f"#{name}")) for name, shown in _SECTIONS.items())
    about = tag(
        "p",
        "A data set condensed to a few images per class with gvbsm, and what students reach that are trained on these alone, "
        "beside the same students on random real images. The method is G-VBSM, ",
        tag("a", "arXiv 2311.17950", href=_METHOD),
        ".",
    )
    body = [
        tag("header", tag("h1", title), about, facts(published), tag("nav", tag("ul", links), aria_label="Contents")),
        tag(
            "main",
            lines(
                [
                    accuracies_section(published),
                    pictures_section(published),
                    classes_section(published),
                    settings_section(published),
                    cost_section(published),
                    provenance_section(published),
                ]
            ),
        ),
    ]
    file = out or published.folder / "report.html"
    write_text(file, "<!doctype html>\n" + tag("html", _head(title), Markup("\n"), tag("body", lines(body)), lang="en") + "\n")
    return f"{file}\n"


def _head(title: str) -> Markup:
    return tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("link", rel="icon", href="data:,"),  # or a browser asks the server for one
        tag("title", title),
        tag("style", Markup(STYLE)),
    )
