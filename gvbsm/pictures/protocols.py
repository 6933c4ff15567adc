"""The protocol of a run: what its accuracies depend on beside the images. They are comparable under one protocol alone.

It has three parts, from the settings in acc.json:

- labels: the teachers, how they were trained, and how they label views (or how the labels of others were converted);
- schedule: how the student is trained, but for how long;
- budget: images per class, epochs of labels, and the student's epochs and batches.

Seeds and what only concerns the machine or the watching of a training are no part of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from gvbsm.pictures.run_settings import flat
from gvbsm.store.keys import key
from gvbsm.store.run import Published
from gvbsm.store.spec import Json

_NOT_COUNTED = ("seed", "seeds", "threads", "precision", "compile", "test_every")
_BUDGET = ("epochs", "batch_size")  # of relabel and evaluate
_LABELS = ("relabel", "convert")


class Protocol(NamedTuple):
    """A code of four digits for each part: equal codes, equal parts."""

    labels: str
    schedule: str
    budget: str

    def __str__(self) -> str:
        return "-".join(self)


def protocol(published: Published, student: str) -> Protocol | None:
    """The protocol of a run's student; None if its acc.json, of an earlier version, holds no settings."""
    accuracies = published.accuracies
    settings = accuracies.get("settings")
    if not settings or student not in settings.get("evaluate", {}):
        return None
    made = {stage: _counted(settings[stage]) for stage in _LABELS if stage in settings}
    trained = {
        name: value for name, value in _counted(settings["evaluate"][student]).items() if not name.startswith("network.")
    }
    teachers = {name: _counted(teacher) for name, teacher in settings.get("squeeze", {}).items()}
    budget = {"ipc": accuracies["ipc"], "labels": _only(made, True), "student": _only({"": trained}, True)}
    return Protocol(*(key(part)[:4] for part in ([teachers, _only(made, False)], _only({"": trained}, False), budget)))


def _counted(settings: Json) -> Json:
    """The settings of a stage by dotted name, without those that are off or not counted."""
    return {
        name: value
        for name, value in flat(settings).items()
        if value is not None and name.rpartition(".")[2] not in _NOT_COUNTED
    }


def _only(stages: dict[str, Json], budget: bool) -> dict[str, Json]:
    """The settings of stages that belong to the budget, or the others."""
    return {stage: {name: value for name, value in of.items() if (name in _BUDGET) == budget} for stage, of in stages.items()}


def parts_that_differ(protocols: Iterable[Protocol]) -> list[str]:
    """The names of the parts in which protocols differ."""
    columns = zip(Protocol._fields, zip(*protocols, strict=True), strict=False)
    return [name for name, codes in columns if len(set(codes)) > 1]
