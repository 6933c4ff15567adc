"""A spec of a stage, read and checked: what `--spec` may hold, by hand or from a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError, create_model

from gvbsm import keys
from gvbsm.errors import UserError
from gvbsm.mistakes import describe
from gvbsm.sources import Strict
from gvbsm.stage_settings import Compute, HardTraining, RecoverShard, Squeeze, Training
from gvbsm.stage_specs import STAGES

Code = dict[str, str]


def read_spec(stage: str, text: str) -> dict[str, Any]:
    """The spec in a plan file, or in JSON text, for a stage; `code` is filled in if a hand-written one lacks it.

    Raises:
        UserError: if it cannot be read, is not JSON, is for another stage, is incomplete or of wrong types, or was
            planned with other code than is installed now.
    """
    where = "--spec"
    if not text.lstrip().startswith("{"):
        where = text
        try:
            text = Path(text).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "not text"
            raise UserError(
                f"--spec: expected JSON text or a plan file, got {where!r} ({reason}); `snakemake -n <target>` writes plans"
            ) from None
    try:
        spec = json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: expected JSON, got an error: {error}; correct the text or plan the target again") from None
    if isinstance(spec, dict) and isinstance(spec.get("spec"), dict):
        spec = spec["spec"]
    if not isinstance(spec, dict) or spec.get("stage") != stage:
        got = spec.get("stage") if isinstance(spec, dict) else type(spec).__name__
        raise UserError(f"{where}: stage: expected {stage!r}, got {got!r}; run the command of that stage")
    fields: dict[str, Any] = {
        name: (kind, None) if type(None) in get_args(kind) else (kind, ...) for name, kind in STAGES[stage].items()
    }
    if stage == "squeeze":
        fields["settings"] = (Compute if spec.get("weights") else Squeeze, ...)
    if stage in ("evaluate", "student"):
        is_hard = spec.get("views") and not spec.get("online")
        fields["settings"] = (HardTraining if is_hard else Training, ...)
    model = create_model("Spec", __base__=Strict, stage=(str, ...), code=(Code | None, None), **fields)
    try:
        model.model_validate(spec)
    except ValidationError as error:
        raise UserError(f"{where}: {describe(error, model)}") from None
    _check_choices(spec, where)
    return _with_code(spec, where)


def _check_choices(spec: dict[str, Any], where: str) -> None:
    """Entries of which a spec needs exactly one, and lists that must be of one length."""
    pairs = []
    if spec["stage"] == "squeeze":
        pairs.append(("weights", spec.get("weights"), "augment", spec.get("augment")))
        pairs.append(("weights", spec.get("weights"), "settings.epochs", spec["settings"].get("epochs")))
    if spec["stage"] in ("relabel", "evaluate", "student"):
        pairs.append(("inputs.images", spec["inputs"].get("images"), "random", spec.get("random")))
    if spec["stage"] in ("evaluate", "student"):
        pairs.append(("inputs.labels", spec["inputs"]["labels"], "views", spec.get("views")))
        teachers, online = spec["inputs"].get("teachers"), spec.get("online")
        if bool(teachers) != bool(online) or (online and not spec.get("views")):
            raise UserError(f"{where}: expected inputs.teachers, online and views together or none of them; correct the spec")
    if spec["stage"] == "recover":
        teachers = len(spec["inputs"]["teachers"])
        if spec.get("precisions") and len(spec["precisions"]) != teachers:
            raise UserError(
                f"{where}: precisions: expected one per teacher ({teachers}), got {len(spec['precisions'])}; correct the spec"
            )
        statistics, settings = len(spec["inputs"]["statistics"]), RecoverShard.model_validate(spec["settings"])
        expected = teachers if settings.needs_statistics else 0
        if statistics != expected:
            raise UserError(
                f"{where}: inputs.statistics: expected {expected} of {teachers} teachers at a statistics_weight of "
                f"{settings.statistics_weight:g} with layers {', '.join(settings.layers)}, got {statistics}; correct the spec"
            )
    for first, one, second, other in pairs:
        if bool(one) == bool(other):
            raise UserError(f"{where}: expected one of {first} and {second}, got {'both' if one else 'none'}; correct the spec")


def _with_code(spec: dict[str, Any], where: str) -> dict[str, Any]:
    """The spec with `code`, which must be the installed package's."""
    planned = spec.get("code")
    if planned is None:
        return spec | {"code": keys.fingerprint(spec["stage"])}
    for module, digest in planned.items():
        if keys.module_digest(module) != digest:
            raise UserError(f"{where}: code: {module} has changed since this was planned; run snakemake again")
    return spec
