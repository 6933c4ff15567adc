"""The accuracies of a run by student, with the margin over random real images; and these as a table for a terminal."""

from __future__ import annotations

from typing import Literal, NamedTuple

from gvbsm.format import readable_seeds, readable_spread
from gvbsm.pictures.names import KINDS, kind_name, run_title
from gvbsm.store.run import Accuracies, Margin, Result, Spread, margin


class StudentRow(NamedTuple):
    """A student's accuracies on every set of training images."""

    student: str
    results: dict[str, Result]  # by kind, in the order of `KINDS`
    top1: dict[str, Spread]  # by kind, of the epoch that was asked for
    margin: Margin | None  # None without the random real images that it is over


def student_rows(accuracies: Accuracies, headline: str = "last", against: str = "random_soft") -> list[StudentRow]:
    """A row per student: of the last epoch, the margin over random real images at the same labels, unless a caller asks."""
    by_kind = {"distilled": accuracies["students"], **accuracies["baselines"]}
    epoch: Literal["top1", "best_top1"] = "best_top1" if headline == "best" else "top1"
    rows = []
    for student in accuracies["students"]:
        results = {kind: by_kind[kind][student] for kind in KINDS if kind in by_kind}
        top1 = {kind: result.get(epoch, result["top1"]) for kind, result in results.items()}
        over = margin(top1["distilled"], top1[against]) if against in top1 else None
        rows.append(StudentRow(student, results, top1, over))
    return rows


def accuracy_lines(accuracies: Accuracies) -> list[str]:
    """A title, a head, and a line per student, of the epoch that the row asks for. Only here, where one run stands alone, the
    margin falls back to hard labels."""
    headline = accuracies["provenance"]["spec"].get("headline", "last")
    against = next((kind for kind in ("random_soft", "random_hard") if kind in accuracies["baselines"]), "")
    rows = student_rows(accuracies, headline, against)
    lines = [["student", *map(kind_name, rows[0].top1), *([f"margin over {KINDS[against][0]}"] if against else [])]]
    for student, _, top1, over in rows:
        cells = [readable_spread(spread["mean"], spread["std"]) for spread in top1.values()]
        lines.append([student, *cells, *([readable_spread(over.mean, over.std, "+")] if over else [])])
    seeds = max(len(row.top1["distilled"]["runs"]) for row in rows)
    title = run_title(accuracies["dataset"], accuracies["ipc"], accuracies["recipe"])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return [f"{title}: top-1 accuracy on the test images, %, {headline} epoch, {readable_seeds(seeds)}", *table]
