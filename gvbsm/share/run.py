"""A published run: what acc.json says, and verified reads of the artifacts it names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gvbsm.artifacts import Job
from gvbsm.errors import UserError
from gvbsm.published import read_published
from gvbsm.receipts import read_receipt, verify


@dataclass(frozen=True)
class PublishedRun:
    """A run's folder, its accuracies, and how its students were trained."""

    folder: Path
    accuracies: dict[str, Any]  # what acc.json holds
    job: Job  # reads data, images and labels
    students: dict[str, dict[str, Any]]  # by name: the spec of its training on the distilled images
    classes: list[str]  # what identifies the classes, by label
    class_names: list[str]

    @property
    def inputs(self) -> dict[str, Any]:
        """Paths of the run's artifacts, relative to the store."""
        inputs: dict[str, Any] = self.job.spec["inputs"]
        return inputs

    @property
    def pixels(self) -> dict[str, Any]:
        """image_size (px), and mean and std per channel, by which networks saw the images."""
        pixels: dict[str, Any] = next(iter(self.students.values()))["pixels"]
        return pixels

    def specs(self, stage_inputs: str) -> list[dict[str, Any]]:
        """The specs of the artifacts of one kind ("images", "labels", "data"), which are not read for it."""
        paths = self.inputs[stage_inputs]
        return [read_receipt(self.job.store / path)["spec"] for path in ([paths] if isinstance(paths, str) else paths)]


def read_run(path: Path) -> PublishedRun:
    """The run of a folder `results/<dataset>/<run>`, or of the acc.json in it.

    Raises:
        UserError: if it is not published, or an artifact is damaged, gone, or another than was published.
    """
    published = read_published(path)
    file, accuracies, spec = published.file, published.accuracies, published.spec
    store = _store(published.folder)
    job = Job(spec=spec, out=file, store=store, data_root=Path(os.environ.get("GVBSM_DATA_ROOT", "data")))
    inputs = spec["inputs"]
    for artifact in (inputs["data"], *inputs["images"], *inputs["labels"]):
        if accuracies["provenance"]["artifacts"].get(artifact) != job.receipt(artifact)["sha256"]:
            raise UserError(
                f"{file}: expected {store / artifact} as it was published, got one made anew since; publish again with: "
                f"rm {file} && snakemake --cores all {file}"
            )
    students = {name: verify(store / kinds["distilled"])["spec"] for name, kinds in inputs["students"].items()}
    _, metadata = job.tensors(inputs["data"])
    return PublishedRun(published.folder, accuracies, job, students, metadata["classes"], metadata["class_names"])


def _store(folder: Path) -> Path:
    """The store that a run's folder stands beside, by the name it was given or, where that is a link, by its own."""
    named = Path(os.path.normpath(folder / ".." / ".." / "store"))
    return named if named.is_dir() else folder.resolve().parent.parent / "store"
