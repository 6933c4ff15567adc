"""What all pictures share: colours, and figures as bytes. Figures are objects of their own: nothing of pyplot's is kept."""

from __future__ import annotations

import io

import matplotlib
from matplotlib.figure import Figure

from gvbsm.store.run import PICTURE_FORMS

# Okabe and Ito's colours, which the colour-blind tell apart, for a few lines, each with a marker of its own;
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vP*"
LINES = ("-", ":", "--", "-.")  # of the kinds of training (KINDS)
# and for the ten classes of one panel Paul Tol's muted ones, with black.
CLASS_COLOURS = (
    *("#332288", "#88CCEE", "#117733", "#DDCC77", "#CC6677", "#44AA99", "#882255", "#999933", "#AA4499"),
    "#000000",
)
_NOT_WRITTEN = dict(zip(PICTURE_FORMS, ("Software", "Date", "CreationDate"), strict=True))
DISTILLED, REAL = COLOURS[0], COLOURS[1]  # wherever the two are compared


def new_figure(width: float, height: float, title: str) -> Figure:
    """An empty figure of a size in inches; constrained layout keeps its texts apart."""
    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title, fontsize=12, parse_math=False)
    return figure


def short_name(name: str, most: int = 20) -> str:
    """The first of a class's names, cut after `most` letters: as much as fits beside a picture."""
    first = name.split(",")[0].strip() or name
    return first if len(first) <= most else first[: most - 1] + "…"  # textwrap would leave "…" alone of one long word


def save(figure: Figure, form: str, dpi: int = 120) -> bytes:
    """The figure in one of `PICTURE_FORMS`, without what would make equal pictures differ."""
    buffer = io.BytesIO()
    # Neither date nor random names; text stays text.
    with matplotlib.rc_context({"svg.hashsalt": "gvbsm", "svg.fonttype": "none"}):
        figure.savefig(buffer, format=form, dpi=dpi, metadata={_NOT_WRITTEN[form]: None})
    return buffer.getvalue()
