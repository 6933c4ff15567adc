"""A spec as `--spec` gives it, by hand or from a plan, read and checked."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from gvbsm.config.messages import describe, short
from gvbsm.errors import UserError
from gvbsm.pipeline.stage import Stage
from gvbsm.store.code import fingerprint, module_digest
from gvbsm.store.files import parse_json
from gvbsm.store.spec import Json, Spec


def read_spec(stage: Stage, text: str) -> Spec:
    """The spec in a plan file, or in JSON text, for a stage. One without `code`, written by hand, gets it here.

    Raises:
        UserError: if it cannot be read, is not JSON, is for another stage, is incomplete or of wrong types, or was
            planned with other code than is installed now.
    """
    where, raw = _read_json(text)
    if isinstance(raw.get("spec"), dict):  # a plan file
        raw = raw["spec"]
    if raw.get("stage") != stage.name:
        raise UserError(
            f"{where}: stage: expected {stage.name!r}, got {short(raw.get('stage'))}; run the command of that stage"
        )
    spec_type = stage.spec_type(raw)
    try:
        spec = spec_type.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {describe(error, spec_type)}") from None
    if spec.code is None:
        return spec_type.model_validate({**raw, "code": fingerprint(stage.name)})
    for module, digest in spec.code.items():
        if module_digest(module) != digest:
            raise UserError(
                f"{where}: code: {module} has changed since this was planned; run snakemake again, or rebuild the environment "
                "or container"
            )
    return spec


def _read_json(text: str) -> tuple[str, Json]:
    """The source of a spec as errors name it, and the JSON object in the text or in the file that the text names."""
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
        raw = parse_json(text)
    except ValueError as error:
        raise UserError(f"{where}: expected JSON, got an error: {error}; correct the text or plan the target again") from None
    if not isinstance(raw, dict):
        raise UserError(f"{where}: expected a JSON object, got {type(raw).__name__}; plan the target again")
    return where, raw
