"""Draw accuracy against steps of the student, of the study steps-cifar10.

`python benchmarks/studies/steps_figure.py steps.svg`, from the project's root. It reads the study's table.csv, and leaves out
what is not measured yet.
"""

import sys
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from gvbsm.pictures.figures import DISTILLED, MARKERS, REAL, new_figure, save

TABLE = Path("benchmarks/studies/steps-cifar10/table.csv")
KINDS = {"distilled": ("distilled", DISTILLED), "random_soft": ("random real", REAL)}


def figure_of(table: pd.DataFrame) -> Figure:
    """A panel for each pair of teachers: accuracy of students on distilled and on random real images, bars over seeds."""
    table = table.assign(steps=table["recipe"].str.removeprefix("steps").astype(int)).sort_values("steps")
    rows = [(name.rpartition(".")[2], of_row) for name, of_row in table.groupby("dataset")]
    figure = new_figure(5 * len(rows), 3.6, "")
    panels = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
    for panel, (name, of_row) in zip(panels, rows, strict=True):
        for marker, (kind, (label, colour)) in zip(MARKERS, KINDS.items(), strict=False):
            known = of_row.dropna(subset=[kind])
            look = {"label": label, "color": colour, "marker": marker, "capsize": 3}
            panel.errorbar(known["steps"], known[kind], yerr=known[f"{kind}_std"], **look)
        panel.set(xscale="log", title=f"teachers of {name.removeprefix('two')} %", xlabel="steps of the student")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("top-1 accuracy, %")
    panels[0].legend(frameon=False)
    return figure


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_bytes(save(figure_of(pd.read_csv(TABLE)), target.suffix[1:]))
