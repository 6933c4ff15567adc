"""The rows for which an artifact is planned: errors name their files, which specs do not know."""

from __future__ import annotations

import contextlib

from gvbsm.config.load import check_row, read_row
from gvbsm.config.origins import written_at
from gvbsm.errors import UserError
from gvbsm.pipeline.prepare import PrepareSpec, plan_prepare
from gvbsm.store.plans import TARGETS, files_in, read_plan_file


def written_for(spec: PrepareSpec, *place: str) -> str:
    """Where the rows of planned runs that need a data set have a setting, for the start of a message:
    "config/datasets/mine.yaml: classes: ". "" if there are none, as for a job by hand."""
    places: dict[str, None] = {}
    for folder in files_in(TARGETS):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, UserError):  # no plan, or a row that is gone
            _, raw = read_plan_file(folder / "plan.json")
            merged, origin = read_row(raw["dataset"], raw.get("recipe"))
            if plan_prepare(check_row(merged, origin)).key == spec.key:
                places[written_at(origin, *place)] = None
    return " and ".join(places) + ": " if places else ""
