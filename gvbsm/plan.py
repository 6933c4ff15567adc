"""From settings to the artifacts of one target: every spec, and so every key and path, before anything runs."""

from __future__ import annotations

from gvbsm import stage_plans as stages
from gvbsm.planfiles import Artifact
from gvbsm.rows import load_row


def plan(dataset: str, ipc: int, recipe: str | None = None) -> list[Artifact]:
    """Every artifact of `results/<dataset>/ipc<ipc>[-<recipe>]`, each after its inputs, publish last.

    Raises:
        SettingsError: if the row or the recipe is wrong.
    """
    row = load_row(dataset, recipe)
    data = stages.prepare(row)
    planned = [data]
    teachers, statistics = [], []
    for backbone in row.backbones:
        teacher = stages.squeeze(row, backbone, data, backbone.squeeze.seed)
        teachers.append(teacher)
        if row.distilled or not row.recover.needs_statistics:
            continue
        measured = teacher
        if row.statistics.measured_in == "twin" and backbone.weights is None:
            measured = stages.squeeze(row, backbone, data, backbone.squeeze.seed + 1)
            planned.append(measured)
        statistics.append(stages.statistics(row, backbone, data, measured))
    planned += teachers + statistics
    random = {"ipc": ipc, "seed": row.evaluate.random_seed}
    chosen: list[Artifact] = []
    if row.distilled:
        images = [stages.adopt(row, row.distilled, ipc, data)]
    else:
        if row.select:
            chosen = stages.select(row, row.select, ipc, data, teachers)
        planned += chosen
        images = stages.recover(row, ipc, teachers, statistics, chosen) if row.recover.iterations else chosen
    if row.distilled and row.distilled.labels:
        labels = stages.convert(row, row.distilled, images[0])
    else:
        labels = stages.relabel(row, teachers, {"images": [image.path for image in images]}, None)
    has_random_soft = "random_soft" in row.evaluate.baselines
    random_labels = stages.relabel(row, teachers, {"data": data.path}, random) if has_random_soft else []
    planned += images + labels + random_labels
    beside = teachers if row.relabel.online else []
    runs: dict[str, dict[str, Artifact]] = {}
    for student in row.evaluate.students:
        sets = {
            "distilled": (images, labels, beside, None),
            "random_soft": ([], random_labels, beside, random),
            "random_hard": ([], [], [], random),
            "distilled_hard": (images, [], [], None),
        }
        wanted = ["distilled", *row.evaluate.baselines]
        runs[student.label] = {kind: stages.evaluate(row, student, kind, data, *sets[kind]) for kind in wanted}
        planned += runs[student.label].values()
    spec = {
        "dataset": dataset,
        "ipc": ipc,
        "recipe": recipe,
        "headline": row.evaluate.headline,
        "inputs": {
            "data": data.path,
            "teachers": {b.label: teacher.path for b, teacher in zip(row.backbones, teachers, strict=True)},
            "statistics": [one.path for one in statistics],
            "selected": [one.path for one in chosen if one not in images] or None,
            "images": [one.path for one in images],
            "labels": [one.path for one in labels],
            "random_labels": [one.path for one in random_labels],
            "students": {label: {kind: run.path for kind, run in sets.items()} for label, sets in runs.items()},
        },
    }
    run = f"ipc{ipc}" + (f"-{recipe}" if recipe else "")
    planned.append(stages.planned("publish", f"{dataset}-{run}", spec))
    return list({artifact.path: artifact for artifact in planned}.values())
