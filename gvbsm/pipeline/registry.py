"""The registry of the stages."""

from __future__ import annotations

import contextlib
from pathlib import Path

from pydantic import ValidationError

from gvbsm.errors import UserError
from gvbsm.pipeline import (
    adopt,
    check,
    convert,
    draw,
    evaluate,
    features,
    judge,
    prepare,
    publish,
    recover,
    relabel,
    select,
    squeeze,
    statistics,
    student,
)
from gvbsm.pipeline.stage import Artifact, Stage
from gvbsm.store.plans import PLANS, date_target, files_in, plan_file, read_plan_file, target_file, write_plan
from gvbsm.store.receipts import KEYED
from gvbsm.store.spec import Json, Spec

# In the order of the chain. A new stage needs an entry here, files in pipeline/ and stages/, a rule, and a place in graph.py.
STAGES: dict[str, Stage] = {
    module.STAGE.name: module.STAGE
    for module in (
        prepare,
        check,
        squeeze,
        statistics,
        select,
        recover,
        adopt,
        judge,
        relabel,
        convert,
        evaluate,
        student,
        features,
        publish,
        draw,
    )
}
STORED = [stage.name for stage in STAGES.values() if stage.stored]


def parse_spec(raw: Json) -> Spec:
    """The spec in a plan file or a receipt.

    Raises:
        KeyError: for an unknown stage.
        pydantic.ValidationError: if it is not what the stage takes.
    """
    return STAGES[raw["stage"]].spec_type(raw).model_validate(raw)


def read_plan(key: str) -> Artifact:
    """The artifact of a key, from its plan file.

    Raises:
        UserError: if the file is missing or is not what the key says.
    """
    file = plan_file(key)
    try:
        name, raw = read_plan_file(file)
        artifact = Artifact(name, parse_spec(raw))
    except (OSError, ValueError, TypeError, KeyError, ValidationError):
        raise UserError(f"{file}: missing or damaged plan; run snakemake again for the acc.json that needs it") from None
    if artifact.key != key:
        raise UserError(f"{file}: expected the plan of {key}, got that of {artifact.key}; delete the file and plan again")
    return artifact


def planned_beside(path: str) -> list[Artifact]:
    """The artifacts, each with a plan of its own, that a planned job reads in one list with that of `path`, in their order."""
    paths: dict[str, None] = {}
    for file in files_in(PLANS):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # no plan, or a damaged one
            if file.suffix == ".json" and path in file.read_text(encoding="utf-8"):
                _, raw = read_plan_file(file)
                lists = [value for value in (raw.get("inputs") or {}).values() if isinstance(value, list) and path in value]
                paths |= dict.fromkeys(other for paths_of_list in lists for other in paths_of_list if other != path)
    artifacts = []
    for other in paths:
        with contextlib.suppress(UserError):
            artifacts.append(read_plan(Path(other).stem[-10:]))
    return artifacts


def write_plans(artifacts: list[Artifact], published: Path) -> Artifact:
    """Write the plan file of every artifact of a target, and return the last, that of publish or draw.

    `published` is the JSON file that this last stage writes; see `date_target`.

    Raises:
        UserError: if a file cannot be written.
    """
    *others, last = artifacts
    for artifact in others:
        write_plan(artifact.name, artifact.spec, plan_file(artifact.key))
    write_plan(last.name, last.spec, target_file(last.key))
    date_target(last.key, published)
    return last


def artifact_of(file: Path) -> str | None:
    """The artifact, relative to the store, that a file or a receipt with this folder and name belongs to; None for others."""
    stage = file.parent.name
    if stage not in STORED or file.suffix not in (STAGES[stage].suffix, ".json") or not KEYED.fullmatch(file.stem):
        return None
    return f"{stage}/{file.stem}{STAGES[stage].suffix}"


def stored(store: Path) -> list[str]:
    """The artifacts of a store, relative to it, in the order of the chain, also those of which only the receipt is there."""
    paths = [artifact_of(file) for stage in STORED for file in files_in(store / stage)]
    return list(dict.fromkeys(path for path in paths if path))
