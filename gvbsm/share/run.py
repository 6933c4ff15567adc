"""A published run: what acc.json says, and verified reads of the artifacts it names."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from gvbsm.config.shapes import PixelForm
from gvbsm.errors import UserError
from gvbsm.pipeline.evaluate import StudentSpec
from gvbsm.pipeline.publish import PublishInputs, PublishSpec
from gvbsm.pipeline.registry import parse_spec
from gvbsm.store.job import Reader
from gvbsm.store.receipts import make_command, read_receipt, verify
from gvbsm.store.run import Accuracies, Published, damaged, read_published
from gvbsm.store.spec import Spec


@dataclass(frozen=True)
class PublishedRun:
    """A run's folder, its accuracies, and how its students were trained."""

    folder: Path
    accuracies: Accuracies
    inputs: PublishInputs  # paths of the run's artifacts
    reader: Reader  # of data, images and labels
    students: dict[str, StudentSpec]  # by name: the training on the distilled images
    classes: list[str]  # what identifies the classes, by label
    class_names: list[str]

    @property
    def pixels(self) -> PixelForm:
        """The form in which networks saw the images."""
        return next(iter(self.students.values())).pixels

    def spec(self, path: str) -> Spec:
        """The spec of an artifact, which is not read for it."""
        return parse_spec(read_receipt(self.reader.store / path)["spec"])


def read_run(path: Path) -> PublishedRun:
    """The run of a folder `results/<dataset>/<run>`, or of a file in it.

    Raises:
        UserError: if it is not published, or an artifact is damaged, gone, or another than was published.
    """
    published = read_published(path)
    file, accuracies, inputs = published.file, published.accuracies, _inputs(published)
    store = _store(published.folder)
    reader = Reader(store=store, data_root=Path(os.environ.get("GVBSM_DATA_ROOT", "data")))
    for artifact in (inputs.data, *inputs.images, *inputs.labels):
        if accuracies["provenance"]["artifacts"].get(artifact) != reader.receipt(artifact)["sha256"]:
            raise UserError(
                f"{file}: expected {store / artifact} as it was published, got one made anew since; publish again with: "
                f"{make_command(file, file)}"
            )
    students: dict[str, StudentSpec] = {}
    for name, kinds in inputs.students.items():
        spec = parse_spec(verify(store / kinds["distilled"])["spec"])
        assert isinstance(spec, StudentSpec)
        students[name] = spec
    _, metadata = reader.tensors(inputs.data)
    return PublishedRun(published.folder, accuracies, inputs, reader, students, metadata["classes"], metadata["class_names"])


def _inputs(published: Published) -> PublishInputs:
    """What the run was published from.

    Raises:
        UserError: if acc.json was written by another version of this package.
    """
    try:
        return PublishSpec.model_validate(published.accuracies["provenance"]["spec"]).inputs
    except ValidationError:
        raise damaged(published.file) from None


def _store(folder: Path) -> Path:
    """The store that a run's folder stands beside, by the name it was given or, where that is a link, by its own."""
    named = Path(os.path.normpath(folder / ".." / ".." / "store"))
    return named if named.is_dir() else folder.resolve().parent.parent / "store"
