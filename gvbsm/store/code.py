"""Hashes of the code that decides an artifact's bytes, and the literal registries that planning reads without importing torch.

Standard library only: planning calls this for every artifact of a target.
"""

from __future__ import annotations

import ast
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

PACKAGE = Path(__file__).resolve().parent.parent
IN_CLONE = (PACKAGE.parent / "workflow" / "Snakefile").is_file()
# The folder of config/, workflow/ and the studies; setup.py puts them into a wheel.
PROJECT = PACKAGE.parent if IN_CLONE else PACKAGE / "project"
# The hash covers whole rooms, and two modules of other rooms: a function that can change a byte belongs in one of these.
COUNTED = ("stages", "method", "backbones", "data", "training", "pictures")
_WITH_DOCSTRINGS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
ALWAYS = ("gvbsm.store.keys", "gvbsm.runtime.arithmetic")  # seeds of all draws; what decides rounding


def fingerprint(stage: str, builders: tuple[str, ...] = ()) -> dict[str, str]:
    """Hashes of the code that decides the bytes of a stage's artifact: {module: 10 hex digits}.

    Counted are `gvbsm.stages.<stage>`, each of `builders` under its own name ("module:function"), what these import from the
    rooms of `COUNTED`, and `ALWAYS`. A room's `__init__` file holds a registry at most, whose entries are the builders. The
    hash is over the syntax tree without positions, comments, docstrings and empty fields.
    """
    return dict(_fingerprint(stage, builders))


@cache
def _fingerprint(stage: str, builders: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    digests: dict[str, str] = {}
    queue = [f"gvbsm.stages.{stage}", *builders, *ALWAYS]
    while queue:
        name = queue.pop()
        if name not in digests:
            digests[name], imports = _read_module(_module_file(name))
            queue.extend(imports)
    return tuple(sorted(digests.items()))


def module_digest(name: str) -> str | None:
    """The hash of the code of "module" or "module:function", None if there is no such module."""
    path = _module_file(name)
    return _read_module(path)[0] if path.is_file() else None


@cache
def builder_options(builder: str) -> dict[str, str | None]:
    """The keyword-only parameters of "module:function" with their default values as text, read from its syntax tree."""
    arguments = _function(builder).args
    defaults = (None if default is None else ast.unparse(default) for default in arguments.kw_defaults)
    return dict(zip((argument.arg for argument in arguments.kwonlyargs), defaults, strict=True))


def builder_about(builder: str) -> str:
    """The docstring of "module:function", "" if it has none."""
    return ast.get_docstring(_function(builder)) or ""


@cache
def _function(name: str) -> ast.FunctionDef:
    module, _, function = name.partition(":")
    for node in ast.parse(_module_file(module).read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and node.name == function:
            return node
    raise LookupError(f"{module} has no function {function}")


def _module_file(module: str) -> Path:
    path = PACKAGE.joinpath(*module.partition(":")[0].split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def _read_module(path: Path) -> tuple[str, tuple[str, ...]]:
    """A module's hash and the counted modules of this package that it imports."""
    imports: list[ast.Import | ast.ImportFrom] = []
    shape = _shape(ast.parse(path.read_text(encoding="utf-8")), imports)
    digest = hashlib.sha256(json.dumps(shape).encode()).hexdigest()[:10]
    package = ["gvbsm", *path.relative_to(PACKAGE).parts[:-1]]
    names: set[str] = set()
    for node in imports:
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        else:
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names.update(f"{base}.{alias.name}" for alias in node.names)
            names.add(base)
    return digest, tuple(sorted(name for name in names if _is_counted(name)))


def _is_counted(name: str) -> bool:
    parts = name.split(".")
    if parts[0] != "gvbsm" or len(parts) < 2 or parts[1] not in COUNTED:
        return False
    return _module_file(name).is_file() and _module_file(name).name != "__init__.py"


def _shape(node: Any, imports: list[ast.Import | ast.ImportFrom]) -> Any:
    """A syntax tree as lists and strings, the same for every Python from 3.11. `imports` receives the imports in it.

    Half of the time of planning a small run is spent here.
    """
    if isinstance(node, list):
        return [_shape(item, imports) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    if isinstance(node, ast.Constant):
        return [type(node.value).__name__, repr(node.value)]
    if isinstance(node, (ast.Import, ast.ImportFrom)):
        imports.append(node)
    shape: list[Any] = [type(node).__name__]
    for name in node._fields:
        value: Any = getattr(node, name, None)
        if name == "body" and isinstance(node, _WITH_DOCSTRINGS) and value and _is_docstring(value[0]):
            value = value[1:]
        if value is not None and value != [] and name != "type_comment":
            shape.append([name, _shape(value, imports)])
    return shape


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
