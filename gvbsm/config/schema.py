"""JSON schemas of the files that users write, for editors: the keys that one file may have, before it is merged with others."""

from __future__ import annotations

from typing import Any

from gvbsm.config.project import Config
from gvbsm.config.row import Row
from gvbsm.config.studies import Study
from gvbsm.store.spec import Json

SCHEMAS = ("row", "config", "study")  # of data sets and recipes; of config.yaml; of study.yaml
_NETWORKS = ("Backbone", "Student")
_DROPPED = ("title", "default", "discriminator", "required")


def schema(name: str) -> Json:
    """The JSON schema of one of `SCHEMAS`.

    A row or a recipe may be laid over another, so every key may be absent, and a network may be given by its name alone.
    """
    if name == "config":
        model = Config.model_json_schema()
        return _head(name) | _for_editors(model) | {"required": model["required"]}
    if name == "study":
        return _head(name) | _study()
    return _head(name) | _row()


def _study() -> Json:
    model = Study.model_json_schema()
    row = _row()
    definitions = row.pop("$defs") | {"Row": row}
    study = _for_editors(model) | {"required": model["required"], "$defs": definitions}
    for sections in ("rows", "variants"):
        study["properties"][sections]["additionalProperties"] = {"$ref": "#/$defs/Row"}
    return study


def _row() -> Json:
    parts = _for_editors(Row.model_json_schema())
    for network in _NETWORKS:
        parts["$defs"][network]["required"] = ["name"]
    for owner, lists in ((parts, "backbones"), (parts["$defs"]["Evaluate"], "students")):
        listed = owner["properties"][lists]
        listed["items"] = {"anyOf": [{"type": "string", "description": "The name of a network."}, listed["items"]]}
    base = {"type": "string", "description": "The data set (in a recipe: the recipe) that this file is laid over."}
    parts["properties"] = {"extends": base} | parts["properties"]
    return parts


def _head(name: str) -> Json:
    return {"$schema": "http://json-schema.org/draft-07/schema#", "title": f"gvbsm: {name}"}


def _for_editors(node: Any) -> Any:
    """A schema by pydantic without the keywords that editors do not need."""
    if isinstance(node, list):
        return [_for_editors(item) for item in node]
    if not isinstance(node, dict):
        return node
    cleaned: Json = {}
    for keyword, value in node.items():
        if keyword in ("properties", "$defs"):  # the keys in them are names of settings and models
            cleaned[keyword] = {name: _for_editors(inner) for name, inner in value.items()}
        elif keyword not in _DROPPED:
            # anyOf: a source of which a file gives only some settings fits several kinds.
            cleaned["anyOf" if keyword == "oneOf" else keyword] = _for_editors(value)
    return cleaned
