"""Published runs side by side: their accuracies, their cost, and the settings in which they differ."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gvbsm.commands.differences import differences
from gvbsm.errors import UserError
from gvbsm.format import readable_spread
from gvbsm.pictures.names import KINDS
from gvbsm.pictures.protocols import Protocol, parts_that_differ, protocol
from gvbsm.pictures.table import student_rows
from gvbsm.store.files import write_bytes, write_text
from gvbsm.store.run import PICTURE_FORMS, Published, read_published

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = ("run", "protocol", "student", "weights", *KINDS, "margin", "label_bytes", "hours")


def compare(runs: list[Path], csv: Path | None = None, pictures: list[Path] | None = None, every_setting: bool = False) -> str:
    """A table of accuracies (percent, mean ± standard deviation over seeds, last epoch), grouped by protocol; a warning if
    protocols differ; and the settings that differ: those that matter, or with `every_setting` all.

    The full table is also written to `csv` and drawn into `pictures` (png, svg, pdf). `margin` is the accuracy with distilled
    images minus that with random real images at the same labels, schedule and budget, in points; its deviation is that of the
    difference of two independent students.

    Raises:
        UserError: if a run is not published, or there is none.
    """
    import pandas as pd

    published = [read_published(run) for run in runs]
    if not published:
        raise UserError("compare: expected runs, got none; name acc.json files or their folders")
    table = _table(published)
    if csv:
        write_text(csv, table.to_csv(index=False))
    for picture in pictures or []:
        _draw(table, picture)
    shown = table.astype(object)
    for kind in [kind for kind in (*KINDS, "margin") if kind in table]:
        spreads = zip(table[kind], table[f"{kind}_std"], strict=True)
        sign = "+" if kind == "margin" else ""
        shown[kind] = ["" if pd.isna(mean) else readable_spread(mean, std, sign) for mean, std in spreads]
    columns = [column for column in _SHOWN if column in shown]
    text = shown[columns].to_string(index=False, na_rep="", float_format="{:.2f}".format)
    return f"{text}\n{_warning(published)}{differences(published, every_setting)}"


def _warning(published: list[Published]) -> str:
    """A line for each data set and student whose runs have several protocols, the same lines once; else nothing."""
    protocols: dict[tuple[str, str], list[Protocol]] = {}
    for run in published:
        for student in run.accuracies["students"]:
            if shared := protocol(run, student):
                protocols.setdefault((run.accuracies["dataset"], student), []).append(shared)
    differing: dict[tuple[str, str], list[str]] = {}
    for (dataset, student), several in protocols.items():
        if parts := parts_that_differ(several):
            differing.setdefault((dataset, ", ".join(parts)), []).append(student)
    return "".join(
        f"warning: {dataset}: runs differ in protocol ({parts}), students {', '.join(students)}: "
        "compare margins over random real images, not accuracies\n"
        for (dataset, parts), students in differing.items()
    )


def _table(published: list[Published]) -> pd.DataFrame:
    """One row per run and student, those of one protocol together; a baseline that was not trained is empty."""
    import pandas as pd  # here, because the import takes half a second

    rows: list[dict[str, Any]] = []
    for run in published:
        accuracies = run.accuracies
        for student, results, spreads, over in student_rows(accuracies):
            row: dict[str, Any] = {
                "run": run.name,
                **{name: accuracies[name] for name in ("dataset", "ipc", "recipe")},
                "student": student,
            }
            ema = results["distilled"].get("ema")
            row["protocol"] = str(protocol(run, student) or "")
            row |= {"weights": f"EMA {ema:g}" if ema else "last", "seeds": len(spreads["distilled"]["runs"])}
            for kind, top1 in spreads.items():
                row |= {kind: top1["mean"], f"{kind}_std": math.nan if top1["std"] is None else top1["std"]}
            if over:
                row |= {"margin": over.mean, "margin_std": math.nan if over.std is None else over.std}
            seconds = sum(stage["seconds"] for stage in accuracies["cost"].values())
            rows.append(row | {"label_bytes": accuracies["soft_labels"]["bytes"], "hours": round(seconds / 3600, 3)})
    met = list(dict.fromkeys(row["protocol"] for row in rows))
    rows.sort(key=lambda of_student: met.index(of_student["protocol"]))
    table = pd.DataFrame(rows)
    order = [name for kind in KINDS for name in (kind, f"{kind}_std") if name in table]
    before = ["run", "dataset", "ipc", "recipe", "protocol", "student", "weights", "seeds"]
    return table[[*before, *order, *(["margin", "margin_std"] if "margin" in table else []), "label_bytes", "hours"]]


def _draw(table: pd.DataFrame, file: Path) -> None:
    from gvbsm.pictures.accuracy import draw_accuracies
    from gvbsm.pictures.figures import save

    if file.suffix[1:] not in PICTURE_FORMS:
        raise UserError(f"--picture: expected a file that ends in .png, .svg or .pdf, got {file}; rename it")
    write_bytes(file, save(draw_accuracies(table), file.suffix[1:]))
