"""The rows for which an artifact is planned: errors name their files, which specs do not know."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from gvbsm.config.load import read_row
from gvbsm.config.messages import dotted
from gvbsm.config.origins import written_at
from gvbsm.errors import UserError
from gvbsm.pipeline.graph import plan
from gvbsm.store.plans import TARGETS, files_in, read_plan_file
from gvbsm.store.spec import Spec


@contextlib.contextmanager
def naming(spec: Spec, *place: str) -> Iterator[None]:
    """A UserError of the block begins with the setting at `place`, and its file in the rows of the planned runs that need the
    artifact of `spec`, if there are any: "config/datasets/mine.yaml: recover.layers: "."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{' and '.join(_places(spec, place)) or dotted(place)}: {error}") from None


def _places(spec: Spec, place: tuple[str, ...]) -> list[str]:
    places: dict[str, None] = {}
    for folder in files_in(TARGETS):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, UserError):  # no plan, or a row that is gone
            file = folder / "plan.json"
            if spec.key in file.read_text(encoding="utf-8"):
                _, raw = read_plan_file(file)
                run = raw["dataset"], raw["ipc"], raw.get("recipe")
                if any(artifact.key == spec.key for artifact in plan(*run)):  # the row may have changed since
                    places[written_at(read_row(run[0], run[2])[1], *place)] = None
    return list(places)
