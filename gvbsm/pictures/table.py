"""The accuracies of a run as a table for a terminal: a line per student, with the margin over random real images."""

from __future__ import annotations

from gvbsm.format import readable_seeds, readable_spread
from gvbsm.pictures.names import KINDS, kind_name, run_title
from gvbsm.store.run import Accuracies, Result, Spread, margin


def accuracy_lines(accuracies: Accuracies) -> list[str]:
    """A title, a head, and a line per student; the margin is over random real images, with soft labels if there are."""
    headline = "best_top1" if accuracies["provenance"]["spec"].get("headline") == "best" else "top1"
    by_kind = {"distilled": accuracies["students"], **accuracies["baselines"]}
    kinds = [kind for kind in KINDS if kind in by_kind]
    against = next((kind for kind in ("random_soft", "random_hard") if kind in by_kind), None)
    head = ["student", *map(kind_name, kinds), *([f"margin over {KINDS[against][0]}"] if against else [])]
    rows = [head]
    for student, result in accuracies["students"].items():
        spreads = {kind: _spread(by_kind[kind][student], headline) for kind in kinds if student in by_kind[kind]}
        cells = [readable_spread(spreads[kind]["mean"], spreads[kind]["std"]) if kind in spreads else "" for kind in kinds]
        if against:
            over = margin(_spread(result, headline), spreads[against]) if against in spreads else None
            cells.append(readable_spread(over.mean, over.std, "+") if over else "")
        rows.append([student, *cells])
    seeds = max(len(result["top1"]["runs"]) for result in accuracies["students"].values())
    title = run_title(accuracies["dataset"], accuracies["ipc"], accuracies["recipe"])
    epoch = "best epoch" if headline == "best_top1" else "last epoch"
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return [f"{title}: top-1 accuracy on the test images, %, {epoch}, {readable_seeds(seeds)}", *lines]


def _spread(result: Result, headline: str) -> Spread:
    return result["best_top1"] if headline == "best_top1" and "best_top1" in result else result["top1"]
