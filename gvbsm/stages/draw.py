"""draw: one picture of a run, from artifacts.

Inputs: what the picture shows. Output: JSON that says what it was drawn from, beside it the picture as PNG and SVG.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pandas as pd
import torch

from gvbsm.artifacts import Job, provenance
from gvbsm.disk import write_bytes, write_text
from gvbsm.keys import key
from gvbsm.pictures.figures import save
from gvbsm.planfiles import input_paths, run_title


def run(job: Job) -> None:
    """Draw the picture of a spec."""
    spec, picture = job.spec, job.spec["picture"]
    _, metadata = job.tensors(spec["inputs"]["data"])
    shown = _SHOWN[picture](job, metadata["class_names"])
    # Not imported above: a picture does not depend on the code of the others.
    figure = import_module(f"gvbsm.pictures.{picture}").draw(title=run_title(spec), **shown)
    for form in ("png", "svg"):
        write_bytes(job.out.with_suffix(f".{form}"), save(figure, form))
    artifacts = {path: job.receipt(path)["sha256"] for path in input_paths(spec)}
    drawn = {"key": key(spec), "provenance": {**provenance(), "spec": spec, "artifacts": artifacts}}
    write_text(job.out, json.dumps(drawn, indent=1, sort_keys=True))


def _curves(job: Job, _names: list[str]) -> dict[str, Any]:
    tables = []
    for student, sets in job.spec["inputs"]["students"].items():
        for kind, path in sets.items():
            job.receipt(path)
            tables.append(pd.read_csv(job.store / path).assign(student=student, kind=kind))
    return {"table": pd.concat(tables, ignore_index=True)}


def _classes(job: Job, names: list[str]) -> dict[str, Any]:
    seen = [job.tensors(path)[0] for path in job.spec["inputs"]["networks"].values()]
    columns: dict[str, Any] = {"name": names}
    for kind in ("distilled", "real"):
        # The same images for every teacher.
        confidence_N = 100 * torch.stack([one[f"{kind}_confidence"] for one in seen]).double().mean(0)
        labels_N = seen[0][f"{kind}_labels"]
        count_K = torch.bincount(labels_N, minlength=len(names))
        columns[f"{kind}_confidence"] = (torch.bincount(labels_N, confidence_N, len(names)) / count_K).numpy()
        columns[f"{kind}_diversity"] = torch.stack([one[f"{kind}_diversity"] for one in seen]).mean(0).numpy()
    return {"table": pd.DataFrame(columns), "teachers": len(seen)}


def _features(job: Job, names: list[str]) -> dict[str, Any]:
    seen_type = import_module("gvbsm.pictures.features").Seen
    networks: dict[str, Any] = {}
    labels: set[int] = set()
    for network, path in sorted(job.spec["inputs"]["networks"].items(), reverse=True):  # the teacher, then the student
        seen = {name: tensor.numpy() for name, tensor in job.tensors(path)[0].items()}
        parts = {kind: (seen[f"{kind}_shown"], seen[f"{kind}_shown_labels"]) for kind in ("distilled", "real")}
        networks[network] = seen_type(*parts["distilled"], *parts["real"])
        labels |= set(seen["real_shown_labels"].tolist())
    named = {label: names[label] for label in sorted(labels)}
    return {"networks": networks, "names": named, "classes": len(names), **job.spec["settings"]}


def _evolution(job: Job, names: list[str]) -> dict[str, Any]:
    found: dict[int, torch.Tensor] = {}
    iterations: list[int] = []
    for path in job.spec["inputs"]["images"]:
        tensors, metadata = job.tensors(path)
        is_first = (tensors["numbers"] == 0) & torch.isin(tensors["labels"], torch.tensor(metadata["snapshots"]["labels"]))
        at_M = is_first.nonzero().squeeze(1)
        images = torch.cat([tensors["snapshots"], tensors["images"][at_M].unsqueeze(1)], 1)
        found |= dict(zip(tensors["labels"][at_M].tolist(), images, strict=True))
        iterations = [*metadata["snapshots"]["iterations"], job.receipt(path)["spec"]["settings"]["iterations"]]
    labels = sorted(found)
    named = {"names": [names[label] for label in labels], "classes": len(names)}
    return {"images": torch.stack([found[label] for label in labels]).numpy(), "iterations": iterations, **named}


_SHOWN: dict[str, Callable[[Job, list[str]], dict[str, Any]]] = {
    "curves": _curves,
    "classes": _classes,
    "features": _features,
    "evolution": _evolution,
}
