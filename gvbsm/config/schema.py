"""JSON schemas of the files in `config/`, for editors: what their keys may be, before rows are laid over each other."""

from __future__ import annotations

from typing import Any

from gvbsm.config.project import Config
from gvbsm.config.row import Row
from gvbsm.store.spec import Json

SCHEMAS = ("row", "config")  # of data sets and recipes; of config.yaml
_NETWORKS = ("Backbone", "Student")
_DROPPED = ("title", "default", "discriminator", "required")


def schema(name: str) -> Json:
    """The JSON schema of one of `SCHEMAS`.

    Rows and recipes are parts that are laid over others, so every key may be absent, and a network may be its name alone.
    """
    if name == "config":
        model = Config.model_json_schema()
        return _head(name) | _without(model) | {"required": model["required"]}
    parts = _without(Row.model_json_schema())
    for network in _NETWORKS:
        parts["$defs"][network]["required"] = ["name"]
    for owner, lists in ((parts, "backbones"), (parts["$defs"]["Evaluate"], "students")):
        listed = owner["properties"][lists]
        listed["items"] = {"anyOf": [{"type": "string", "description": "The name of a network."}, listed["items"]]}
    base = {"type": "string", "description": "The data set (in a recipe: the recipe) that this file is laid over."}
    parts["properties"] = {"extends": base} | parts["properties"]
    return _head(name) | parts


def _head(name: str) -> Json:
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": f"gvbsm: {name}"}


def _without(node: Any, holds_names: bool = False) -> Any:
    """A schema of pydantic's without what editors do not need; the keys of `properties` are names, and stay."""
    if isinstance(node, list):
        return [_without(item) for item in node]
    if not isinstance(node, dict):
        return node
    kept = {key: value for key, value in node.items() if holds_names or key not in _DROPPED}
    # A source of which only a part is given fits several kinds.
    return {
        "anyOf" if key == "oneOf" and not holds_names else key: _without(
            value, not holds_names and key in ("properties", "$defs")
        )
        for key, value in kept.items()
    }
