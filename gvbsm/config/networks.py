"""What a network may be called: one of ours, or `torchvision:<name>` or `timm:<name>`. Imports none of these libraries."""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from gvbsm.backbones import BACKBONES, LIBRARIES
from gvbsm.store.code import builder_options

GIVEN = ("classes", "image_size", "channels")  # parameters of builders that a row gives in other settings


def builder(name: str) -> str:
    """ "module:function" of the builder of a network that `check` accepts."""
    library, colon, _ = name.partition(":")
    return LIBRARIES[library] if colon else BACKBONES[name]


def label(name: str) -> str:
    """What results call a network that has no label of its own."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", name.rpartition(":")[2])


def check(name: object, options: object) -> None:
    """See that a network exists and has these options; a library's network refuses wrong options when it is built.

    Raises:
        ValueError: if not.
    """
    own, libraries = BACKBONES, LIBRARIES
    library, colon, model = str(name).partition(":")
    if colon and library in libraries:
        known = _models_of(library)
        if known and model.partition(".")[0] not in known:
            near = [f"{library}:{one}" for one in difflib.get_close_matches(model, known, 3)]
            raise ValueError(
                f"unknown backbone {name!r}; {library} has {len(known)}; did you mean {' or '.join(near) or 'another'}?"
            )
        return
    if name not in own:
        near = difflib.get_close_matches(str(name), own, 1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        prefixes = " or ".join(f"{one}:<name>" for one in libraries)
        raise ValueError(f"unknown backbone {name!r}; {hint}choose from {', '.join(sorted(own))}, {prefixes}")
    allowed = [x for x in builder_options(own[str(name)]) if x not in GIVEN]
    for option in options if isinstance(options, dict) else ():
        if option not in allowed:
            raise ValueError(f"unknown option {option!r} of {name}; choose from {', '.join(allowed) or 'none'}")


@cache
def _models_of(library: str) -> frozenset[str]:
    """Names that a library registers, found in its source text: importing it takes seconds, planning must not.

    Empty if the library is not installed or registers its models in another way; then only building tells.
    """
    spec = find_spec(library)
    if spec is None or spec.origin is None:
        return frozenset()
    registered = re.compile(r'^@register_model(?:\((?:name="(\w+)")?\))?\n(?:@.*\n)*def (\w+)\(', re.MULTILINE)
    files = (Path(spec.origin).parent / "models").glob("*.py")
    return frozenset(
        name or function for file in files for name, function in registered.findall(file.read_text(encoding="utf-8"))
    )
