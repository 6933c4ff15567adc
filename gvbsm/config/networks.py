"""Names of networks: this package's own, `torchvision:<name>` and `timm:<name>`. Imports neither of these libraries."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from gvbsm.backbones import BACKBONES, LIBRARIES
from gvbsm.config.messages import short
from gvbsm.store.code import builder_options

# Names of published weights by library: a pattern, and words. torchvision may change what `pretrained` would mean there.
_WEIGHTS = {
    "torchvision": (r"[A-Z][A-Z0-9_]*", "a name of torchvision's (IMAGENET1K_V1, ...)"),
    "timm": (r"[a-z0-9_]+", "`pretrained` or a tag of timm's (ra_in1k, ...)"),
}
_RESCALING = ("torchvision:googlenet", "torchvision:inception_v3")  # with the option, they bring images into that range
GIVEN = ("classes", "image_size", "channels")  # parameters of builders that are no options: other settings of a row give them


def builder(name: str) -> str:
    """ "module:function" of the builder of a network that `check` accepts."""
    library, colon, _ = name.partition(":")
    return LIBRARIES[library] if colon else BACKBONES[name]


def label(name: str) -> str:
    """What results call a network that has no label of its own."""
    return re.sub(r"[^A-Za-z0-9_.]", "_", name.rpartition(":")[2])


def of_entry(entry: Mapping[str, object]) -> object:
    """The name that an entry of a row gives.

    Raises:
        ValueError: if it gives none. YAML reads `timm: resnet18`, with a space, as a setting `timm`.
    """
    if "name" in entry:
        return entry["name"]
    for library in LIBRARIES:
        if library in entry:
            raise ValueError(f"expected a network, got a setting {library!r}; write {library}:{entry[library]} without a space")
    raise ValueError("expected the name of a network, got none; add name")


def check(name: object, options: object) -> None:
    """Check that a network exists and has these options. A library checks the options of its networks when it builds them.

    Raises:
        ValueError: for an unknown network or option.
    """
    library, colon, model = str(name).partition(":")
    if colon and library in LIBRARIES:
        known = _models_of(library)
        if known and model.partition(".")[0] not in known:
            raise ValueError(f"unknown network {name!r}; {library} has {len(known)} others; {_hint(str(name))}".rstrip("; "))
        return
    if not isinstance(name, str) or name not in BACKBONES:  # a list could not be looked up
        names, prefixes = ", ".join(sorted(BACKBONES)), " or ".join(f"{prefix}:<name>" for prefix in LIBRARIES)
        raise ValueError(f"unknown network {name!r}; {_hint(str(name))}choose from {names}, {prefixes}")
    allowed = [option for option in builder_options(BACKBONES[name]) if option not in GIVEN]
    for option in options if isinstance(options, dict) else ():
        if option not in allowed:
            raise ValueError(f"unknown option {option!r} of {name}; choose from {', '.join(allowed) or 'none'}")


def check_weights(name: str, weights: str, options: Mapping[str, object]) -> None:
    """Check that published weights of a network can have such a name, and that it has the options that they were trained with.
    Only loading them says whether there are any.

    Raises:
        ValueError: for another network than a library's, a name that its weights cannot have, or an option that they need.
    """
    library = name.partition(":")[0]
    if library not in _WEIGHTS:
        raise ValueError(
            f"weights: expected a .pth, .pt, .bin or .safetensors file, got {weights!r}; only the networks of "
            f"{' and '.join(_WEIGHTS)} have weights by name"
        )
    pattern, names = _WEIGHTS[library]
    if not re.fullmatch(pattern, weights):
        raise ValueError(f"weights: expected {names}, or a file, got {weights!r}; correct it")
    if name in _RESCALING and options.get("transform_input") is not True:
        raise ValueError(
            f"options.transform_input: expected true with weights {weights}, which were trained on images in another range, "
            f"got {short(options.get('transform_input'))}; add it"
        )


def near(name: str) -> list[str]:
    """At most three known names like this one, the likest first; with a library's prefix, right or misspelt, its alone."""
    prefix, colon, model = name.partition(":")
    if not colon:
        prefix, model = "", name
    libraries = difflib.get_close_matches(prefix.lower(), LIBRARIES, 1) or list(LIBRARIES)
    known = [f"{library}:{of_library}" for library in libraries for of_library in sorted(_models_of(library))]
    if len(libraries) > 1:
        known = [*sorted(BACKBONES), *known]
    likeness = {full: _likeness(model.partition(".")[0].lower(), full.rpartition(":")[2]) for full in known}
    exact = [full for full in known if likeness[full] == 1]
    likely = exact or [full for full in known if likeness[full] >= 0.7]
    return sorted(likely, key=lambda full: -likeness[full])[:3]  # of equal ones this package's first


def _likeness(name: str, known: str) -> float:
    """From 0 to 1; a name that goes on as another begins counts as nearly the same."""
    ratio = difflib.SequenceMatcher(None, known, name).ratio()
    return max(ratio, 0.9 + ratio / 20) if len(name) >= 4 and known.startswith(name) and known != name else ratio


def _hint(name: str) -> str:
    names = near(name)
    return f"did you mean {' or '.join(names)}? " if names else ""


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
