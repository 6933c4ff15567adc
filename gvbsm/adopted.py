"""Distilled images by others, and their labels: whether the files are still those that were taken over."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gvbsm.errors import UserError
from gvbsm.folders import difference, is_image, is_visible, stamp_if_there
from gvbsm.planfiles import STORE, Artifact
from gvbsm.receipts import read_receipt

_COUNTS = {"adopt": is_image, "convert": is_visible}  # which files in their folders


def stamp_of(stage: str, root: Path) -> dict[str, Any] | None:
    """What adopt and convert remember of the files that they read; None if they are gone.

    Raises:
        UserError: if a file cannot be read.
    """
    return stamp_if_there(root, _COUNTS[stage])


def check_adopted(planned: Iterable[Artifact], data_root: Path) -> None:
    """See that what was taken over is as it was, or gone: who makes new images in the same folder wants new accuracies.

    Raises:
        UserError: if files have changed since.
    """
    stamps: dict[tuple[str, Path], dict[str, Any] | None] = {}  # many shards of labels are of one folder
    for artifact in planned:
        if artifact.stage not in _COUNTS:
            continue
        try:
            before = read_receipt(STORE / artifact.path)["summary"]["source"]
        except UserError:
            continue  # missing, and yet to be made; or damaged, which who reads it says
        at = artifact.stage, data_root / artifact.spec["path"]
        if at not in stamps:
            stamps[at] = stamp_of(*at)
        odd = difference(before, stamps[at] or before)
        if odd:
            raise UserError(
                f"{at[1]}: changed since {artifact.stage} read it: {odd}; restore it, or set distilled.version (2, 3, ...) in "
                "the recipe to take what is there now"
            )
