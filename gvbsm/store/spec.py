"""Specs: typed models of everything that decides the bytes of one artifact. Each stage has its own in `gvbsm.pipeline`."""

from __future__ import annotations

from functools import cached_property
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from gvbsm.store import keys

Json = dict[str, Any]  # a JSON object in the format of another tool or another version


class Strict(BaseModel):
    """Unknown keys, values of another type, NaN and infinity are errors."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Inputs(Strict):
    """Paths of artifacts, relative to the store; optional ones that are not read are None or empty."""

    def paths(self) -> list[str]:
        """Every path once, in the order of the fields."""
        return flat_paths(self.model_dump())


class Spec(Strict):
    """Everything that decides the bytes of one artifact."""

    suffix: ClassVar[str] = ".safetensors"  # of the artifact

    stage: str
    code: dict[str, str] | None = None  # hashes of the code, which decides the bytes too

    @cached_property
    def json_object(self) -> Json:
        """The JSON object in plan files and receipts."""
        return self.model_dump(mode="json")

    @cached_property
    def key(self) -> str:
        """10 hexadecimal digits, in the artifact's name."""
        return keys.key(self.json_object)

    def input_paths(self) -> list[str]:
        """The artifacts that the job reads, relative to the store."""
        inputs = getattr(self, "inputs", None)
        return inputs.paths() if inputs is not None else []

    def precisions(self, device: str) -> list[str]:
        """The precisions asked for on a kind of device ("cpu", "cuda", "mps"); none if the stage has no such setting."""
        asked = getattr(getattr(self, "settings", None), "precision", None)
        return [asked] if asked else []

    def threads(self) -> int:
        """CPU threads that the job uses."""
        return int(getattr(getattr(self, "settings", None), "threads", 1))


def flat_paths(value: Any) -> list[str]:
    """The texts in nested dicts and lists, each once, in their order."""

    def flatten(value: Any) -> list[str]:
        if value is None:
            return []
        if isinstance(value, str):
            return [value]
        return [path for item in (value.values() if isinstance(value, dict) else value) for path in flatten(item)]

    return list(dict.fromkeys(flatten(value)))
