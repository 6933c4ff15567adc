"""The spec of each stage, typed: what `--spec` may hold, by hand or from a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, create_model

from gvbsm import keys
from gvbsm.errors import UserError
from gvbsm.mistakes import describe
from gvbsm.settings import Weights
from gvbsm.sources import DataPath, Seed, Source, Strict
from gvbsm.stage_settings import (
    Augment,
    Coding,
    Compute,
    Count,
    Epochs,
    HardTraining,
    PerChannel,
    Precision,
    RecoverShard,
    RelabelShard,
    Select,
    Squeeze,
    StatisticsPass,
    TeachersLabels,
    Training,
    ViewsOfImages,
)

Code = dict[str, str]
Paths = Annotated[list[str], Field(min_length=1)]


class NetworkSpec(Strict):
    """A network by name, and the shapes it maps."""

    name: str
    options: dict[str, bool | int | float | str]
    classes: Count
    image_size: Count
    channels: Count


class PixelsSpec(Strict):
    """Size and normalisation of images."""

    image_size: Count
    mean: PerChannel
    std: PerChannel


class RandomImages(Strict):
    """Which random real images are taken."""

    ipc: Count
    seed: Seed


class LabelledViews(ViewsOfImages):
    """The views of hard-label training."""

    epochs: Epochs


class _Images(Strict):
    """One image set: shards of distilled images, or the data set that random ones are drawn from."""

    data: str | None = None
    images: list[str] | None = None


class _RecoverInputs(Strict):
    teachers: Paths
    statistics: Paths
    start: str | None = None  # select's images; none: noise


class MoreStatistics(StatisticsPass):
    """The pass, and what else it measures if asked to."""

    by_class: bool | None = None
    importance: bool | None = None


class _RelabelInputs(_Images):
    teachers: Paths


class _EvaluateInputs(Strict):
    data: str
    images: list[str]
    labels: list[str]
    teachers: list[str] | None = None


def _inputs(name: str, **fields: Any) -> type[BaseModel]:
    required: dict[str, Any] = {field: (kind, ...) for field, kind in fields.items()}
    return create_model(name, __base__=Strict, **required)


_DATA = _inputs("Inputs", data=str)
_EPOCHS = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=2, max_length=2)]  # first, end
_BATCHES = Annotated[list[list[Annotated[list[int], Field(min_length=3, max_length=3)]]], Field(min_length=1)]
_STAGES: dict[str, dict[str, Any]] = {
    "prepare": {
        "source": Source,
        "classes": Count,
        "image_size": Count,
        "channels": Count,
        "resize": Count,
        "storage": Literal["packed", "files"],
    },
    "squeeze": {
        "inputs": _DATA,
        "network": NetworkSpec,
        "pixels": PixelsSpec,
        "weights": Weights | None,
        "augment": Augment | None,
        "settings": Squeeze,  # or Compute, with weights
    },
    "statistics": {
        "inputs": _inputs("Inputs", data=str, teacher=str),
        "pixels": PixelsSpec,
        "augment": Augment,
        "settings": MoreStatistics,
    },
    "select": {
        "inputs": _inputs("Inputs", data=str, teachers=list[str]),  # none, if they have no say
        "batches": _BATCHES,
        "pixels": PixelsSpec,
        "settings": Select,
    },
    "recover": {
        "inputs": _RecoverInputs,
        "batches": _BATCHES,
        "pixels": PixelsSpec,
        "augment": Augment,
        "settings": RecoverShard,
        "precisions": list[Precision] | None,  # one per teacher, where they differ from the settings
    },
    "adopt": {
        "inputs": _DATA,
        "path": DataPath,
        "version": int | None,
        "ipc": Count,
        "image_size": Count,
        "channels": Count,
    },
    "relabel": {
        "inputs": _RelabelInputs,
        "random": RandomImages | None,
        "epochs": _EPOCHS,
        "pixels": PixelsSpec,
        "settings": RelabelShard,
    },
    "convert": {
        "inputs": _inputs("Inputs", images=str),
        "path": DataPath,
        "version": int | None,
        "seed": Seed,
        "epochs": _EPOCHS,
        "coding": Coding,
    },
    "evaluate": {
        "inputs": _EvaluateInputs,
        "random": RandomImages | None,
        "views": LabelledViews | None,
        "online": TeachersLabels | None,
        "network": NetworkSpec,
        "pixels": PixelsSpec,
        "settings": Training,  # or HardTraining, with neither labels nor teachers
        "seeds": Annotated[list[Seed], Field(min_length=1)],
    },
    "publish": {
        "dataset": str,
        "ipc": Count,
        "recipe": str | None,
        "headline": Literal["best", "last"],
        "inputs": _inputs(
            "Inputs",
            data=str,
            teachers=dict[str, str],
            statistics=list[str],  # none, if images are not recovered
            images=Paths,
            labels=list[str],  # none, if they are made online
            random_labels=list[str],  # none, if they are not asked for or made online
            students=dict[str, dict[str, str]],
        ),
    },
}


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
        name: (kind, None) if type(None) in get_args(kind) else (kind, ...) for name, kind in _STAGES[stage].items()
    }
    if stage == "squeeze":
        fields["settings"] = (Compute if spec.get("weights") else Squeeze, ...)
    if stage == "evaluate":
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
    if spec["stage"] in ("relabel", "evaluate"):
        pairs.append(("inputs.images", spec["inputs"].get("images"), "random", spec.get("random")))
    if spec["stage"] == "evaluate":
        pairs.append(("inputs.labels", spec["inputs"]["labels"], "views", spec.get("views")))
        teachers, online = spec["inputs"].get("teachers"), spec.get("online")
        if bool(teachers) != bool(online) or (online and not spec.get("views")):
            raise UserError(f"{where}: expected inputs.teachers, online and views together or none of them; correct the spec")
    if spec["stage"] == "recover":
        teachers, statistics = (spec["inputs"][name] for name in ("teachers", "statistics"))
        for name, entries in (("inputs.statistics", statistics), ("precisions", spec.get("precisions") or teachers)):
            if len(entries) != len(teachers):
                raise UserError(
                    f"{where}: {name}: expected one per teacher ({len(teachers)}), got {len(entries)}; correct the spec"
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
