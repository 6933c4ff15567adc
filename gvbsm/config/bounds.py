"""The kinds of values that settings share, each with its bounds and its unit."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic.config import JsonDict

from gvbsm.config.messages import short


def unit(name: str) -> JsonDict:
    """The unit of a setting, as `json_schema_extra` of its Field."""
    return {"unit": name}


def text_like(pattern: str, words: str) -> tuple[Any, ...]:
    """What makes a text a setting that matches a pattern, which messages say in words."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"expected {words}, got {text!r}; correct the value")
        return text

    return AfterValidator(check), Field(json_schema_extra={"pattern": f"^({pattern})$"})


def _option(value: Any) -> Any:
    """Of a union, pydantic would report each kind as a setting of its own."""
    if not isinstance(value, (bool, int, float, str)) or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"expected true, false, a number or a text, got {short(value)}; correct the value")
    return value


Option = Annotated[bool | int | float | str, BeforeValidator(_option)]  # of a network's builder
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Epochs = Annotated[int, Field(ge=1, le=100_000, json_schema_extra=unit("epochs"))]
Batch = Annotated[int, Field(ge=1, le=65_536)]
Rate = Annotated[float, Field(gt=0, le=100)]
Weight = Annotated[float, Field(ge=0, le=1e6)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Share = Annotated[float, Field(gt=0, le=1)]
Parts = Annotated[int, Field(ge=2, le=1000)]  # of equal length
Pixels = Annotated[int, Field(ge=0, le=1024, json_schema_extra=unit("px"))]


def _ordered(interval: list[float]) -> list[float]:
    if interval[0] > interval[1]:
        raise ValueError(f"expected the smaller value first, got {interval}; swap the two")
    return interval


_INTERVAL = (Field(min_length=2, max_length=2), AfterValidator(_ordered))
Shares = Annotated[list[Share], *_INTERVAL]  # smallest and largest share of an area
Ratios = Annotated[list[Annotated[float, Field(gt=0, le=100)]], *_INTERVAL]  # smallest and largest width / height
PerChannel = Annotated[list[float], Field(min_length=1, max_length=4)]
Cells = Annotated[int, Field(ge=1, le=16)]  # per direction


def _once(values: list[str]) -> list[str]:
    twice = next((value for value in values if values.count(value) > 1), None)
    if twice:
        raise ValueError(f"expected every entry once, got {twice!r} more often; remove it")
    return values


ONCE = AfterValidator(_once)
Precision = Literal["float32", "bfloat16"]  # of convolutions and matrix products (autocast)
