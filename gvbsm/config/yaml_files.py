"""The folder `config/`, and the YAML files in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from gvbsm.config.messages import SettingsError, short
from gvbsm.store.code import PROJECT
from gvbsm.store.spec import Json

_MOST, _DEEPEST = 100_000, 50  # values in a file, and their nesting


def beside_package(folder: Path) -> Path:
    """The folder in the working directory, or else the one beside the package."""
    return folder if folder.is_dir() else PROJECT / folder


def config_file() -> Path:
    """config.yaml of the working directory, or else the one beside the package.

    Raises:
        SettingsError: if there is neither.
    """
    own = Path("config") / "config.yaml"
    for file in (own, PROJECT / own):
        if file.is_file():
            return file
    raise SettingsError(
        f"{own}: expected this file in {Path.cwd()}, got none; write it (targets: [results/<dataset>/ipc10/acc.json] and "
        "data_root: data are enough), or let `gvbsm init` do so"
    )


def row_files(kind: str) -> dict[str, list[Path]]:
    """The files of `config/<kind>/` ("datasets" or "recipes") by name: the working directory's first, then the package's."""
    folders = [Path("config") / kind]
    if folders[0].resolve() != (PROJECT / folders[0]).resolve():
        folders.append(PROJECT / folders[0])
    files: dict[str, list[Path]] = {}
    for file in (file for folder in folders for file in sorted(folder.glob("*.yaml"))):
        if not file.name.startswith("."):  # editors keep such files, and links that lead nowhere
            files.setdefault(file.stem, []).append(file)
    return files


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number and a repeated key is an error, as is a value that is none of its kind (2026-13-45)."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (yaml.YAMLError, RecursionError):
            raise
        except Exception:  # PyYAML leaves what int, float, datetime and dict raise as it is
            kind = node.tag.rpartition(":")[2]
            raise yaml.MarkedYAMLError(
                problem=f"expected a value of the kind {kind}, got {short(node.value)}", problem_mark=node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key_node.value!r} appears twice", problem_mark=key_node.start_mark)
            seen.add(str(key_node.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"), list("-+.0123456789")
)


def read_text(path: Path) -> str:
    """The text of a file of settings.

    Raises:
        SettingsError: if it cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        line, byte = error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise SettingsError(
            f"{path}:{line}: expected text in UTF-8, got the byte {byte:#04x}; save the file as UTF-8"
        ) from None
    except OSError as error:
        raise SettingsError(f"{path}: cannot be read: {error.strerror}; restore the file") from None


def read_yaml(path: Path) -> Json:
    """The settings in a file.

    Raises:
        SettingsError: if it cannot be read, is not YAML, or is no mapping.
    """
    return parse_yaml(path, read_text(path))


def parse_yaml(path: Path, text: str) -> Json:
    """The settings in the text of a file.

    Raises:
        SettingsError: if it is not YAML, or is no mapping.
    """
    try:
        raw = yaml.load(text, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(f"{path}{line}: not valid YAML: {error.problem}; correct this line") from None
    except yaml.YAMLError as error:
        raise SettingsError(f"{path}: cannot be read: {type(error).__name__}; restore the file") from None
    except RecursionError:
        raise SettingsError(f"{path}: expected settings, got ones that are nested too deeply; correct the file") from None
    _check_size(path, raw)
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: expected settings (key: value), got {short(raw)}; write them or restore the file")
    return raw


def _check_size(path: Path, raw: Any) -> None:
    """Raise SettingsError if there are more values than any file of settings has. Aliases (*name) make endless ones of few."""
    values, count = [(raw, 0)], 0
    while values:
        value, depth = values.pop()
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
        count += len(inner)
        if count > _MOST or depth > _DEEPEST:
            raise SettingsError(
                f"{path}: expected at most {_MOST} values, nested at most {_DEEPEST} times, got more; remove aliases (*name) "
                "that contain themselves or each other"
            )
        values += [(item, depth + 1) for item in inner]
