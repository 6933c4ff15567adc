"""The parts of the page that say what a run came to: accuracies, pictures, accuracies by class."""

from __future__ import annotations

import csv

from gvbsm.errors import UserError
from gvbsm.format import readable_bytes, readable_seconds, readable_seeds, readable_spread
from gvbsm.pictures.names import KINDS, kind_name
from gvbsm.report.markup import Content, Markup, folded, joined, lines, picture, section, table, tag, terms
from gvbsm.store.run import Published, SoftLabels, Spread, further_pictures

_PICTURES = {
    "curves": (
        "Curves",
        "Training, by epoch: test accuracy and training loss of every student, on distilled images and on baselines.",
    ),
    "evolution": ("From start to end", "The first image of each class at several points of its optimisation."),
    "features": ("Features", "Distilled and real images in the features of a teacher and of a student (t-SNE)."),
    "classes": (
        "Classes",
        "How sure the teachers are of each class's images, and how much these differ: distilled and random real.",
    ),
}
_FOLDED = 40  # classes from which on their table is folded
_NAMED = 20  # classes that images.png shows at most


def facts(published: Published) -> Markup:
    """What a reader wants to know first."""
    accuracies, cost = published.accuracies, published.accuracies["cost"].values()
    stored = accuracies["soft_labels"]["bytes"]
    seconds, jobs = sum(stage["seconds"] for stage in cost), sum(stage["jobs"] for stage in cost)
    return terms(
        [
            ("Distilled images", f"{accuracies['images']:,}"),
            ("Soft labels", readable_bytes(stored) if stored else "none stored"),
            ("Teachers", len(accuracies["teachers"])),
            ("Computing", f"{readable_seconds(seconds)} in {jobs} jobs"),
        ],
        "facts",
    )


def accuracies_section(published: Published) -> Markup:
    """Every student on every set of images, then the teachers."""
    accuracies, by_kind = published.accuracies, published.by_kind
    groups: dict[str, list[list[Content]]] = {}
    for student in by_kind["distilled"]:
        first = by_kind["distilled"][student]["top1"]["mean"]
        for kind in [kind for kind in KINDS if student in by_kind.get(kind, {})]:
            found = by_kind[kind][student]
            averaged = f", average of its weights ({found['ema']:g})" if found.get("ema") else ""
            margin = None if kind == "distilled" else f"{first - found['top1']['mean']:+.2f}"
            top1 = _spread(found["top1"])
            shown = tag("strong", top1) if kind == "distilled" else top1
            others = [_spread(found[name]) if name in found else None for name in ("top5", "best_top1")]
            each = ", ".join(f"{one:.2f}" for one in found["top1"]["runs"])
            row: list[Content] = [kind_name(kind), shown, margin, *others, each]
            groups.setdefault(f"{student}{averaged}", []).append(row)
    seeds = max(len(one["top1"]["runs"]) for one in by_kind["distilled"].values())
    caption = (
        f"Accuracy on the test images, %: {readable_seeds(seeds)} of the student, after the last epoch. "
        "The margin is how much more the same student reaches with the distilled images and soft labels, in points."
    )
    head = ["trained on", "top-1", "margin", "top-5", "best tested epoch", "each seed"]
    parts: list[Content] = [table(caption, head, groups, numbers=range(1, 6))]
    if published.accuracies["provenance"]["spec"].get("headline") == "best":
        parts.append(tag("p", "In table.csv the best tested epoch stands first, as the row asks for (evaluate.headline)."))
    teachers = [(name, f"{one['top1']:.2f}") for name, one in accuracies["teachers"].items()]
    parts.append(
        table("Teachers: top-1 on the same test images, %.", ["teacher", "top-1"], {"": teachers}, numbers=(1,), kind="narrow")
    )
    return section("accuracies", "Accuracies", *parts, tag("p", _labels(accuracies["soft_labels"])))


def _spread(found: Spread) -> str:
    return readable_spread(found["mean"], found["std"])


def _labels(labels: SoftLabels) -> str:
    right = labels.get("teacher_top1_on_views")
    judged = "" if right is None else f" On the views that they label, the teachers are right in {right:.1f} %."
    if not labels["bytes"]:
        return f"No soft labels are stored: the teachers ran beside the students.{judged}"
    return f"The stored soft labels take {readable_bytes(labels['bytes'])} ({labels['bytes']:,} bytes).{judged}"


def pictures_section(published: Published) -> Markup:
    """The distilled images, and the further pictures that are there."""
    parts: list[Markup] = []
    grid = published.folder / "images.png"
    if grid.is_file():
        names = [row["name"] for row in _classes(published)]
        rows = f"one row per class: {', '.join(names[:_NAMED])}" if names else "one row per class"
        said = f"Distilled images, {rows}{', and so on' if len(names) > _NAMED else ''}."
        parts.append(picture(grid, said, said))
    for name, files in further_pictures(published.folder).items():
        title, about = _PICTURES[name]
        smallest = min(files, key=lambda file: file.stat().st_size)
        parts += [tag("h3", title), picture(smallest, f"{title}: {about}", about)]
    return section("pictures", "Pictures", lines(parts) if parts else tag("p", "None: images.png is not beside acc.json."))


def classes_section(published: Published) -> Markup:
    """Top-1 of every class, of each student on each set of images."""
    rows = _classes(published)
    if not rows:
        return section("classes", "By class", tag("p", "classes.csv is not beside acc.json, or is empty."))
    columns = sorted((name for name in rows[0] if name not in ("label", "class", "name")), key=_order)
    shown = [[_class_name(row), *(f"{float(row[column]):.1f}" if row[column] else None for column in columns)] for row in rows]
    head = ["class", *(_column(name) for name in columns)]
    made = table("Top-1 accuracy by class, %: mean over the seeds.", head, {"": shown}, numbers=range(1, len(head)))
    return section("classes", "By class", folded(f"All {len(rows)} classes", made) if len(rows) > _FOLDED else made)


def _classes(published: Published) -> list[dict[str, str]]:
    """The rows of classes.csv; none if it is not there."""
    file = published.folder / "classes.csv"
    try:
        with file.open(encoding="utf-8", newline="") as opened:
            rows = list(csv.DictReader(opened))
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: expected the table that publish writes, got an error: {error}; make it again") from None
    if rows and not {"label", "class", "name"} <= rows[0].keys():
        raise UserError(f"{file}: expected columns label, class and name, got {', '.join(rows[0])}; make it again")
    return rows


def _class_name(row: dict[str, str]) -> Markup:
    """Its name, and what identifies it where that is something else."""
    return joined(row["name"], None if row["class"] in (row["name"], row["label"]) else tag("small", f" {row['class']}"))


def _order(column: str) -> tuple[str, int]:
    """Students one after the other, each with its sets of images in the order of the other tables."""
    student, _, kind = column.rpartition(" ")
    return student, list(KINDS).index(kind) if kind in KINDS else len(KINDS)


def _column(name: str) -> str:
    student, _, kind = name.rpartition(" ")
    return f"{student}: {kind_name(kind)}" if kind in KINDS else name
