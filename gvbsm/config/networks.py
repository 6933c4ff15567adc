"""Names of networks: this package's own, `torchvision:<name>` and `timm:<name>`. Imports neither of these libraries."""

from __future__ import annotations

import difflib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from gvbsm.backbones import BACKBONES, LIBRARIES
from gvbsm.config.messages import did_you_mean
from gvbsm.store.code import builder_options

GIVEN = ("classes", "image_size", "channels")  # parameters of builders that are no options: other settings of a row give them


def builder(name: str) -> str:
    """ "module:function" of the builder of a network that `check` accepts."""
    library, colon, _ = name.partition(":")
    return LIBRARIES[library] if colon else BACKBONES[name]


def label(name: str) -> str:
    """What results call a network that has no label of its own."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", name.rpartition(":")[2])


def check(name: object, options: object) -> None:
    """Check that a network exists and has these options. A library checks the options of its networks when it builds them.

    Raises:
        ValueError: for an unknown network or option.
    """
    library, colon, model = str(name).partition(":")
    if colon and library in LIBRARIES:
        known = _models_of(library)
        if known and model.partition(".")[0] not in known:
            near = [f"{library}:{match}" for match in difflib.get_close_matches(model, known, 3)]
            raise ValueError(
                f"unknown backbone {name!r}; {library} has {len(known)} others; did you mean {' or '.join(near) or 'another'}?"
            )
        return
    if name not in BACKBONES:
        hint = did_you_mean(str(name), BACKBONES)
        names, prefixes = ", ".join(sorted(BACKBONES)), " or ".join(f"{prefix}:<name>" for prefix in LIBRARIES)
        raise ValueError(f"unknown backbone {name!r}; {hint}choose from {names}, {prefixes}")
    allowed = [option for option in builder_options(BACKBONES[str(name)]) if option not in GIVEN]
    for option in options if isinstance(options, dict) else ():
        if option not in allowed:
            raise ValueError(f"unknown option {option!r} of {name}; choose from {', '.join(allowed) or 'none'}")


@cache
def _models_of(library: str) -> frozenset[str]:
    """Names of a library's models, read from its source text: to import it would delay planning by seconds.

    Empty if the library is not installed or registers its models in another way; a wrong name then fails at building.
    """
    spec = find_spec(library)
    if spec is None or spec.origin is None:
        return frozenset()
    registered = re.compile(r'^@register_model(?:\((?:name="(\w+)")?\))?\n(?:@.*\n)*def (\w+)\(', re.MULTILINE)
    files = (Path(spec.origin).parent / "models").glob("*.py")
    return frozenset(
        name or function for file in files for name, function in registered.findall(file.read_text(encoding="utf-8"))
    )
