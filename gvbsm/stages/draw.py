"""draw: one picture of a run, from artifacts.

Inputs: the artifacts that the picture shows. Output: JSON with the provenance, and beside it the picture as PNG, SVG and PDF.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pandas as pd
import torch

from gvbsm.pictures.figures import save
from gvbsm.pictures.names import run_title
from gvbsm.pipeline.draw import DrawSpec
from gvbsm.pipeline.recover import RecoverSpec
from gvbsm.pipeline.registry import parse_spec
from gvbsm.store.files import write_bytes, write_text
from gvbsm.store.job import Job, provenance
from gvbsm.store.run import PICTURE_FORMS, Picture

Shown = dict[str, Any]  # arguments of a picture's `draw`


def run(job: Job[DrawSpec]) -> None:
    """Draw the picture of a spec."""
    spec = job.spec
    _, metadata = job.tensors(spec.inputs.data)
    content = _CONTENT[spec.picture](job, metadata["class_names"])
    title = run_title(spec.dataset, spec.ipc, spec.recipe)
    # Imported here, so that a picture does not depend on the code of the others.
    figure = import_module(f"gvbsm.pictures.{spec.picture}").draw(title=title, **content)
    for form in PICTURE_FORMS:
        write_bytes(job.out.with_suffix(f".{form}"), save(figure, form))
    artifacts = {path: job.receipt(path)["sha256"] for path in spec.input_paths()}
    record = {"key": spec.key, "provenance": {**provenance(), "spec": spec.json_object, "artifacts": artifacts}}
    write_text(job.out, json.dumps(record, indent=1, sort_keys=True))


def _curves(job: Job[DrawSpec], _names: list[str]) -> Shown:
    tables = []
    for student, sets in (job.spec.inputs.students or {}).items():
        for kind, path in sets.items():
            job.receipt(path)
            tables.append(pd.read_csv(job.store / path).assign(student=student, kind=kind))
    return {"table": pd.concat(tables, ignore_index=True)}


def _classes(job: Job[DrawSpec], names: list[str]) -> Shown:
    measures = [job.tensors(path)[0] for path in (job.spec.inputs.networks or {}).values()]  # by teacher
    columns: dict[str, Any] = {"name": names}
    for kind in ("distilled", "real"):
        confidence_N = 100 * torch.stack([measure[f"{kind}_confidence"] for measure in measures]).double().mean(0)
        labels_N = measures[0][f"{kind}_labels"]  # every teacher has the same images
        count_K = torch.bincount(labels_N, minlength=len(names))
        columns[f"{kind}_confidence"] = (torch.bincount(labels_N, confidence_N, len(names)) / count_K).numpy()
        columns[f"{kind}_diversity"] = torch.stack([measure[f"{kind}_diversity"] for measure in measures]).mean(0).numpy()
    return {"table": pd.DataFrame(columns), "teachers": len(measures)}


def _features(job: Job[DrawSpec], names: list[str]) -> Shown:
    panel_type = import_module("gvbsm.pictures.features").Seen
    networks: dict[str, Any] = {}
    labels: set[int] = set()
    for network, path in sorted((job.spec.inputs.networks or {}).items(), reverse=True):  # the teacher, then the student
        arrays = {name: tensor.numpy() for name, tensor in job.tensors(path)[0].items()}
        parts = {kind: (arrays[f"{kind}_shown"], arrays[f"{kind}_shown_labels"]) for kind in ("distilled", "real")}
        networks[network] = panel_type(*parts["distilled"], *parts["real"])
        labels |= set(arrays["real_shown_labels"].tolist())
    shown_names = {label: names[label] for label in sorted(labels)}
    settings = job.spec.settings.model_dump() if job.spec.settings else {}
    return {"networks": networks, "names": shown_names, "classes": len(names), **settings}


def _evolution(job: Job[DrawSpec], names: list[str]) -> Shown:
    by_label: dict[int, torch.Tensor] = {}
    iterations: list[int] = []
    for path in job.spec.inputs.images or []:
        tensors, metadata = job.tensors(path)
        is_first = (tensors["numbers"] == 0) & torch.isin(tensors["labels"], torch.tensor(metadata["snapshots"]["labels"]))
        at_M = is_first.nonzero().squeeze(1)
        series_M = torch.cat([tensors["snapshots"], tensors["images"][at_M].unsqueeze(1)], 1)
        by_label |= dict(zip(tensors["labels"][at_M].tolist(), series_M, strict=True))
        spec = parse_spec(job.receipt(path)["spec"])
        assert isinstance(spec, RecoverSpec)
        iterations = [*metadata["snapshots"]["iterations"], spec.settings.iterations]
    labels = sorted(by_label)
    images = torch.stack([by_label[label] for label in labels]).numpy()
    return {"images": images, "iterations": iterations, "names": [names[label] for label in labels], "classes": len(names)}


_CONTENT: dict[Picture, Callable[[Job[DrawSpec], list[str]], Shown]] = {
    "curves": _curves,
    "classes": _classes,
    "features": _features,
    "evolution": _evolution,
}
