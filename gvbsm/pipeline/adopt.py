"""adopt: distilled images by others, and the check that their files have not changed since they were read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

from gvbsm.config.bounds import Count
from gvbsm.config.row import Row
from gvbsm.config.sources import DataPath, Distilled
from gvbsm.data.folders import change_if_there, is_image, is_visible
from gvbsm.errors import UserError
from gvbsm.pipeline.convert import ConvertSpec
from gvbsm.pipeline.scale import Scale
from gvbsm.pipeline.stage import Artifact, Stage, planned, prefix
from gvbsm.store.plans import STORE
from gvbsm.store.receipts import read_receipt
from gvbsm.store.spec import Inputs, Spec


class AdoptInputs(Inputs):
    """The data set."""

    data: str


class AdoptSpec(Spec):
    """Images by others."""

    stage: Literal["adopt"] = "adopt"
    inputs: AdoptInputs
    path: DataPath
    version: int | None = None
    ipc: Count
    image_size: Count  # px
    channels: Count


def plan_adopt(row: Row, distilled: Distilled, ipc: int, data: Artifact) -> Artifact:
    """The images that a recipe takes over."""
    return planned(
        AdoptSpec,
        f"{prefix(row)}-ipc{ipc}",
        inputs=AdoptInputs(data=data.path),
        path=distilled.images,
        version=distilled.version,
        ipc=ipc,
        image_size=row.image_size,
        channels=len(row.mean),
    )


def check_adopted(planned: Iterable[Artifact], data_root: Path) -> None:
    """Check that the files that adopt and convert have read are unchanged, or gone.

    Specs hold only their path: without this check, new images in the same folder would have the accuracies of the old ones.

    Raises:
        UserError: if files have changed since they were read.
    """
    changes: dict[tuple[str, Path], str] = {}  # shards of labels share a folder
    for artifact in planned:
        if not isinstance(artifact.spec, (AdoptSpec, ConvertSpec)):
            continue
        try:
            before = read_receipt(STORE / artifact.path)["summary"]["source"]
        except UserError:
            continue  # not made yet, or damaged, which the job that reads it reports
        root = data_root / artifact.spec.path
        reader = artifact.stage, root
        if reader not in changes:
            counts = is_image if isinstance(artifact.spec, AdoptSpec) else is_visible
            changes[reader] = change_if_there(before, root, counts)
        if changes[reader]:
            raise UserError(
                f"{root}: changed since {artifact.stage} read it: {changes[reader]}; restore it, or set distilled.version "
                "(2, 3, ...) in the recipe to take what is there now"
            )


def _images(_spec: AdoptSpec, scale: Scale) -> int | None:
    return scale.distilled_images


def _bytes(spec: AdoptSpec, scale: Scale) -> int:
    label_and_number = 16
    return scale.classes * spec.ipc * (spec.channels * spec.image_size**2 + label_and_number)


STAGE = Stage(
    name="adopt",
    about="take distilled images by others",
    spec=AdoptSpec,
    checkpoints=lambda spec: False,
    sharded=True,
    images=_images,
    bytes=_bytes,
    origin="distilled by others and taken over as they were; their authors' licence and citation, not stated here, apply too",
)
