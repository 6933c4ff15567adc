"""Canonical specs, their keys, derived seeds and code fingerprints.

Standard library only, and nothing of this package is imported: planning calls this for every artifact of a target.
"""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent
_IMAGES_AND_LABELS = ("prepare", "squeeze", "statistics", "select", "recover", "adopt", "relabel", "convert")
STORED = (*_IMAGES_AND_LABELS, "evaluate", "student", "features")  # their artifacts are in the store; the others' beside it
STAGES = (*STORED, "publish", "draw")

# Modules that cannot change a byte of an artifact's content; parallel and graphs only round otherwise, as other devices do.
_COUNTED = ("stages", "method", "data", "runtime", "backbones", "pictures", "published", "folders")
_UNCOUNTED = {f"gvbsm.runtime.{name}" for name in ("progress", "checkpoints", "compiler", "parallel", "graphs")} | {
    "gvbsm.method.transfer"
}


def canonical(spec: Any) -> str:
    """JSON text of `spec` that is equal for equal specs: sorted keys, no spaces, entries that are None left out.

    None means "off"; leaving it out lets a new optional setting arrive without changing the key of any old spec.

    Raises:
        ValueError: for NaN or infinity, which JSON cannot hold.
    """
    return json.dumps(_without_none(spec), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def key(spec: Any) -> str:
    """The first 10 hexadecimal digits of the SHA-256 of `canonical(spec)`."""
    return hashlib.sha256(canonical(spec).encode()).hexdigest()[:10]


def derive_seed(*parts: Any) -> int:
    """A 63-bit seed from JSON-able parts, independent for any two different lists of parts.

    Every random draw of the pipeline comes from a seed derived from what it is for (batch, epoch, step), never from
    a generator carried along: a resumed or differently cut job then draws the same numbers.
    """
    return int.from_bytes(hashlib.sha256(canonical(list(parts)).encode()).digest()[:8], "big") >> 1


def fingerprint(stage: str, builders: tuple[str, ...] = ()) -> dict[str, str]:
    """Hashes of the code that decides the bytes of a stage's artifact: {module: 10 hex digits}.

    Counted are `gvbsm.stages.<stage>`, the modules of `builders` ("module:function"), and what these import from
    `_COUNTED`; packages' `__init__` files hold registries and are not counted. The
    hash is over the syntax tree without positions, comments, docstrings and empty fields.
    """
    return dict(_fingerprint(stage, builders))


@cache
def _fingerprint(stage: str, builders: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    queue = [f"gvbsm.stages.{stage}", *(builder.partition(":")[0] for builder in builders)]
    while queue:
        module = queue.pop()
        if module not in found and module not in _UNCOUNTED:
            digest, imports = _read_module(_module_file(module))
            found[module] = digest
            queue.extend(imports)
    return tuple(sorted(found.items()))


def module_digest(module: str) -> str | None:
    """The hash of one module's code, None if there is no such module."""
    path = _module_file(module)
    return _read_module(path)[0] if path.is_file() else None


def registry(package: str, name: str) -> dict[str, str]:
    """The literal dict `name` in `gvbsm/<package>/__init__.py`, read without importing it (and so without torch)."""
    return dict(_literal(PACKAGE / package / "__init__.py", name))


@cache
def _literal(path: Path, name: str) -> dict[str, str]:
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
        if isinstance(target, ast.Name) and target.id == name:
            return ast.literal_eval(node.value)  # type: ignore[attr-defined]
    raise LookupError(f"{path} has no literal dict {name}")


@cache
def builder_options(builder: str) -> tuple[str, ...]:
    """The keyword-only parameters of "module:function", read from its syntax tree."""
    module, _, function = builder.partition(":")
    for node in ast.parse(_module_file(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return tuple(argument.arg for argument in node.args.kwonlyargs)
    raise LookupError(f"{module} has no function {function}")


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(item) for name, item in value.items() if item is not None}
    if isinstance(value, (list, tuple)):
        return [_without_none(item) for item in value]
    return value


def _module_file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _read_module(path: Path) -> tuple[str, tuple[str, ...]]:
    """A module's hash and the counted modules of this package that it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    digest = hashlib.sha256(json.dumps(_shape(tree)).encode()).hexdigest()[:10]
    package = ["gvbsm", *path.relative_to(PACKAGE).parts[:-1]]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names.update(f"{base}.{alias.name}" for alias in node.names)
            names.add(base)
    return digest, tuple(sorted(name for name in names if _is_counted(name)))


def _is_counted(name: str) -> bool:
    parts = name.split(".")
    if parts[0] != "gvbsm" or len(parts) < 2 or parts[1] not in _COUNTED:
        return False
    return _module_file(name).is_file() and _module_file(name).name != "__init__.py"


def _shape(node: Any) -> Any:
    """A syntax tree as lists and strings, the same for every Python from 3.11."""
    if isinstance(node, ast.Constant):
        return [type(node.value).__name__, repr(node.value)]
    if isinstance(node, list):
        return [_shape(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = dict(ast.iter_fields(node))
    if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
        first = node.body[0] if node.body else None
        if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and isinstance(first.value.value, str):
            fields["body"] = node.body[1:]
    kept = {name: value for name, value in fields.items() if value is not None and value != [] and name != "type_comment"}
    return [type(node).__name__, *([name, _shape(value)] for name, value in kept.items())]
