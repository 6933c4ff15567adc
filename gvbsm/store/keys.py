"""Canonical specs, their keys, and seeds derived from their purpose. Standard library only: planning calls this often."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def canonical(spec: Any) -> str:
    """JSON text of `spec` that is equal for equal specs: sorted keys, no spaces, entries that are None left out.

    None means "off". It is left out, so that a new optional setting does not change the keys of old specs.

    Raises:
        ValueError: for NaN or infinity, which JSON cannot hold.
    """
    return json.dumps(_without_none(spec), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def key(spec: Any) -> str:
    """The first 10 hexadecimal digits of the SHA-256 of `canonical(spec)`."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()[:10]


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed from JSON-able parts, independent for any two different lists of parts.

    Every random draw of the pipeline comes from a seed derived from its purpose (batch, epoch, step), never from the state
    of an earlier generator: a job that is resumed or sharded differently draws the same numbers.
    """
    return int.from_bytes(hashlib.sha256(canonical(list(parts)).encode()).digest()[:8], "big") >> 1


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return value
