"""publish: gather a run's receipts into acc.json, tables and a picture.

Inputs: the receipts of every artifact of the run, the distilled images. Output: acc.json, beside it the row as it was
(settings.yaml), the table of accuracies (table.csv; in short also printed), the same by class (classes.csv) and a picture of
the distilled images by class, beside real ones (images.png, .svg and .pdf).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import cast

import pandas as pd

from gvbsm.config.shapes import RandomImages
from gvbsm.data.image_set import ImageSet, load_image_set, real_images
from gvbsm.errors import UserError
from gvbsm.pictures.figures import save
from gvbsm.pictures.grid import DPI, MOST_CLASSES, MOST_REAL, draw_grid
from gvbsm.pictures.names import JUDGE, KINDS, run_title
from gvbsm.pictures.run_settings import row_text, settings_of
from gvbsm.pictures.table import accuracy_lines
from gvbsm.pipeline.publish import PublishSpec
from gvbsm.pipeline.registry import parse_spec
from gvbsm.store.files import write_bytes, write_text
from gvbsm.store.job import Job, provenance
from gvbsm.store.receipts import Receipt
from gvbsm.store.run import PICTURE_FORMS, SETTINGS, Accuracies, Cost, Result, SoftLabels
from gvbsm.store.spec import Spec


def run(job: Job[PublishSpec]) -> None:
    """Publish the run of a spec."""
    spec = job.spec
    inputs, title = spec.inputs, run_title(spec.dataset, spec.ipc, spec.recipe)
    receipts = {path: job.receipt(path) for path in spec.input_paths()}
    specs = {path: parse_spec(receipt["spec"]) for path, receipt in receipts.items()}
    by_class: dict[str, list[float]] = {}
    runs: dict[str, dict[str, Result]] = {}
    for student, sets in inputs.students.items():
        summaries = {kind: dict(receipts[path]["summary"]) for kind, path in sets.items()}
        for summary in summaries.values():
            summary.pop("precision", None)  # stays in the receipts
        by_class |= {f"{student} {kind}": summary.pop("top1_by_class") for kind, summary in summaries.items()}
        runs[student] = {kind: cast(Result, summary) for kind, summary in summaries.items()}
    labels = [receipts[path] for path in inputs.labels]
    accuracies: Accuracies = {
        "dataset": spec.dataset,
        "ipc": spec.ipc,
        "recipe": spec.recipe,
        "images": sum(receipts[path]["summary"]["images"] for path in inputs.images),
        "key": spec.key,
        "students": {student: sets["distilled"] for student, sets in runs.items()},
        "baselines": _by_kind(runs, "distilled"),
        "teachers": {label: {"top1": receipts[path]["summary"]["top1"]} for label, path in inputs.teachers.items()},
        "soft_labels": _soft_labels(labels),
        "cost": _cost(receipts),
        "settings": settings_of(specs, inputs.teachers, inputs.students),
        "provenance": {
            **provenance(),  # type: ignore[typeddict-item]
            "spec": spec.json_object,
            "artifacts": {path: receipt["sha256"] for path, receipt in receipts.items()},
            "devices": sorted({receipt["device"] for receipt in receipts.values()}),
        },
    }
    for label, path in (inputs.judge or {}).items():
        accuracies["judge"] = {label: {name: receipts[path]["summary"][name] for name in ("assigned", "top1")}}  # type: ignore[dict-item]
        judged = pd.read_csv(job.store / path)
        by_class[f"{label} {JUDGE}"] = (100 * judged["assigned"] / judged["images"]).tolist()
    table = _table(runs, spec.headline)
    _, metadata = job.tensors(inputs.data)
    picture = draw_grid(load_image_set(job, inputs.images), _real_images(job, specs), metadata["class_names"], title)
    for form in PICTURE_FORMS:
        write_bytes(job.out.with_name(f"images.{form}"), save(picture, form, DPI))
    if spec.row is not None:
        write_text(job.out.with_name(SETTINGS), row_text(spec.row, title))
    write_text(job.out.with_name("table.csv"), table.to_csv(index=False))
    classes = pd.DataFrame({"class": metadata["classes"], "name": metadata["class_names"], **by_class})
    write_text(job.out.with_name("classes.csv"), classes.to_csv(index_label="label"))
    write_text(job.out, json.dumps(accuracies, indent=1, sort_keys=True))
    sys.stdout.write("\n".join([*accuracy_lines(accuracies), str(job.out)]) + "\n")


def _real_images(job: Job[PublishSpec], specs: dict[str, Spec]) -> ImageSet | None:
    """Some of the random real images that students were trained on; None if the data set is no longer at hand."""
    seeds = [random.seed for spec in specs.values() if isinstance(random := getattr(spec, "random", None), RandomImages)]
    random = RandomImages(ipc=MOST_REAL, seed=seeds[0] if seeds else 0)
    try:
        return real_images(job, job.spec.inputs.data, random, MOST_CLASSES)
    except UserError:
        return None


def _by_kind(runs: dict[str, dict[str, Result]], without: str) -> dict[str, dict[str, Result]]:
    """The runs by kind of image set and label, then by student, except the kind `without`."""
    kinds = [kind for sets in runs.values() for kind in sets if kind != without]
    return {kind: {student: sets[kind] for student, sets in runs.items()} for kind in kinds}


def _soft_labels(receipts: list[Receipt]) -> SoftLabels:
    """Bytes of the stored labels of the distilled images, and the teachers' top-1 accuracy on their views in percent (None
    without stored labels, which are then made online)."""
    summaries = [receipt["summary"] for receipt in receipts]
    views = sum(summary["views"] for summary in summaries)
    right = sum(summary["views"] * summary["teacher_top1_on_views"] for summary in summaries)
    return {"bytes": sum(receipt["bytes"] for receipt in receipts), "teacher_top1_on_views": right / views if views else None}


def _cost(receipts: dict[str, Receipt]) -> dict[str, Cost]:
    """The cost of every stage, over the artifacts of the run: jobs, seconds, processed images (times iterations or epochs),
    bytes written, and the peak memory of a job, resident and on its device."""
    by_stage: dict[str, list[Receipt]] = {}
    for path, receipt in receipts.items():
        by_stage.setdefault(Path(path).parts[0], []).append(receipt)
    return {stage: _stage_cost(receipts_of_stage) for stage, receipts_of_stage in by_stage.items()}


def _stage_cost(receipts: list[Receipt]) -> Cost:
    seconds, images = 0.0, sum(receipt["images"] for receipt in receipts)
    for receipt in receipts:
        seconds = round(seconds + receipt["seconds"], 3)
    return {
        "jobs": len(receipts),
        "seconds": seconds,
        "images": images,
        "images_per_second": round(images / seconds, 1),
        "bytes": sum(receipt["bytes"] for receipt in receipts),
        "peak_memory_bytes": max(receipt.get("peak_memory_bytes", 0) for receipt in receipts),
        "peak_device_memory_bytes": max(receipt.get("peak_device_memory_bytes", 0) for receipt in receipts),
    }


def _table(runs: dict[str, dict[str, Result]], headline: str) -> pd.DataFrame:
    """One row per student, image set and kind of label; `top1` is the last epoch's, or with headline "best" the best's."""
    rows = []
    for student, sets in runs.items():
        for kind in sets:
            images, labels = KINDS[kind]
            top1 = sets[kind]["best_top1" if headline == "best" else "top1"]
            row = {"student": student, "images": images, "labels": labels, "top1": top1["mean"], "std": top1["std"]}
            row["weights"] = f"EMA {ema:g}" if (ema := sets[kind].get("ema")) else "last"
            both = {"last_top1": sets[kind]["top1"]["mean"], "best_top1": sets[kind]["best_top1"]["mean"]}
            rows.append(row | {"runs": len(top1["runs"]), "epoch": headline} | both)
    return pd.DataFrame(rows)
