"""publish: gather a run's receipts into acc.json, tables and a picture.

Inputs: the receipts of every artifact of the run, the distilled images. Output: acc.json, beside it the table of accuracies
(table.csv, also printed), the same by class (classes.csv) and a picture of the distilled images by class (images.png).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd

from gvbsm.artifacts import Job, provenance
from gvbsm.data.image_set import load_image_set
from gvbsm.data.picture import draw_grid
from gvbsm.disk import write_bytes, write_text
from gvbsm.keys import key
from gvbsm.planfiles import input_paths, run_title
from gvbsm.published import KINDS, settings_of


def run(job: Job) -> None:
    """Publish the run of a spec."""
    spec = job.spec
    inputs = spec["inputs"]
    receipts = {path: job.receipt(path) for path in input_paths(spec)}
    by_class: dict[str, list[float]] = {}
    runs: dict[str, dict[str, dict[str, Any]]] = {}
    for student, sets in inputs["students"].items():
        runs[student] = {kind: dict(receipts[path]["summary"]) for kind, path in sets.items()}
        by_class |= {f"{student} {kind}": one.pop("top1_by_class") for kind, one in runs[student].items()}
    labels = [receipts[path] for path in inputs["labels"]]
    accuracies = {
        "dataset": spec["dataset"],
        "ipc": spec["ipc"],
        "recipe": spec.get("recipe"),
        "images": sum(receipts[path]["summary"]["images"] for path in inputs["images"]),
        "key": key(spec),
        "students": {student: sets["distilled"] for student, sets in runs.items()},
        "baselines": _by_kind(runs, "distilled"),
        "teachers": {label: {"top1": receipts[path]["summary"]["top1"]} for label, path in inputs["teachers"].items()},
        "soft_labels": _soft_labels(labels),
        "cost": _cost(receipts),
        "settings": settings_of({path: receipt["spec"] for path, receipt in receipts.items()}, inputs),
        "provenance": {
            **provenance(),
            "spec": spec,
            "artifacts": {path: receipt["sha256"] for path, receipt in receipts.items()},
            "devices": sorted({receipt["device"] for receipt in receipts.values()}),
        },
    }
    table = _table(runs, spec["headline"])
    data, metadata = job.tensors(inputs["data"])
    picture = draw_grid(load_image_set(job), metadata["class_names"], run_title(spec))
    write_bytes(job.out.with_name("images.png"), picture)
    write_text(job.out.with_name("table.csv"), table.to_csv(index=False))
    classes = pd.DataFrame({"class": metadata["classes"], "name": metadata["class_names"], **by_class})
    write_text(job.out.with_name("classes.csv"), classes.to_csv(index_label="label"))
    write_text(job.out, json.dumps(accuracies, indent=1, sort_keys=True))
    sys.stdout.write(f"\n{run_title(spec)}: top-1 accuracy on {len(data['test_labels'])} test images, %\n")
    sys.stdout.write(table.round(2).to_string(index=False) + f"\n{job.out}\n")


def _by_kind(runs: dict[str, dict[str, dict[str, Any]]], without: str) -> dict[str, dict[str, dict[str, Any]]]:
    """The runs of every student, by image set and kind of label first."""
    kinds = [kind for sets in runs.values() for kind in sets if kind != without]
    return {kind: {student: sets[kind] for student, sets in runs.items()} for kind in kinds}


def _soft_labels(receipts: list[dict[str, Any]]) -> dict[str, Any]:
    """Size of the stored labels of the distilled images and how often the teachers are right on these views, in percent; if
    none are stored, since they are made online, nothing is known of that."""
    views = sum(one["summary"]["views"] for one in receipts)
    right = sum(one["summary"]["views"] * one["summary"]["teacher_top1_on_views"] for one in receipts)
    return {"bytes": sum(one["bytes"] for one in receipts), "teacher_top1_on_views": right / views if views else None}


def _cost(receipts: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """What every stage took, over the artifacts of the run: jobs, seconds, images that went through (times iterations or
    epochs), bytes that it left, and the largest memory of a job, resident and on its device."""
    peaks = ("peak_memory_bytes", "peak_device_memory_bytes")
    nothing = dict.fromkeys(("jobs", "images", "bytes", *peaks), 0)
    cost: dict[str, dict[str, float]] = {}
    for path, receipt in receipts.items():
        stage = cost.setdefault(Path(path).parts[0], {"seconds": 0.0, **nothing})
        stage["seconds"] = round(stage["seconds"] + receipt["seconds"], 3)
        stage["jobs"] += 1
        stage["images"] += receipt["images"]
        stage["bytes"] += receipt["bytes"]
        for peak in peaks:
            stage[peak] = max(stage[peak], receipt.get(peak, 0))
    for stage in cost.values():
        stage["images_per_second"] = round(stage["images"] / stage["seconds"], 1)
    return cost


def _table(runs: dict[str, dict[str, dict[str, Any]]], headline: str) -> pd.DataFrame:
    """One row per student, image set and kind of label; `top1` is the last epoch's, or the best if the headline says so."""
    rows = []
    for student, sets in runs.items():
        for kind in sets:
            images, labels = KINDS[kind]
            shown = sets[kind]["best_top1" if headline == "best" else "top1"]
            row = {"student": student, "images": images, "labels": labels, "top1": shown["mean"], "std": shown["std"]}
            row["weights"] = f"EMA {ema:g}" if (ema := sets[kind].get("ema")) else "last"
            both = {"last_top1": sets[kind]["top1"]["mean"], "best_top1": sets[kind]["best_top1"]["mean"]}
            rows.append(row | {"runs": len(shown["runs"]), "epoch": headline} | both)
    return pd.DataFrame(rows)
