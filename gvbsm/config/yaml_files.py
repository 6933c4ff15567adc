"""The folder `config/`, and the YAML files in it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from gvbsm.config.messages import SettingsError, short
from gvbsm.store.code import PACKAGE
from gvbsm.store.spec import Json


def beside_package(folder: Path) -> Path:
    """The folder in the working directory, or else the one beside the package."""
    return folder if folder.is_dir() else PACKAGE.parent / folder


def config_file() -> Path:
    """config.yaml of the working directory, or else the one beside the package.

    Raises:
        SettingsError: if there is neither.
    """
    own = Path("config") / "config.yaml"
    for file in (own, PACKAGE.parent / own):
        if file.is_file():
            return file
    raise SettingsError(
        f"{own}: expected this file in {Path.cwd()}, got none; write it (targets: [results/<dataset>/ipc10/acc.json] and "
        "data_root: data are enough), or run in a clone"
    )


def row_files(kind: str) -> dict[str, list[Path]]:
    """The files of `config/<kind>/` ("datasets" or "recipes") by name: the working directory's first, then the package's."""
    folders = [Path("config") / kind]
    if folders[0].resolve() != (PACKAGE.parent / folders[0]).resolve():
        folders.append(PACKAGE.parent / folders[0])
    files: dict[str, list[Path]] = {}
    for file in (file for folder in folders for file in sorted(folder.glob("*.yaml"))):
        files.setdefault(file.stem, []).append(file)
    return files


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number and a repeated key is an error."""

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


def read_yaml(path: Path) -> Json:
    """The settings in a file.

    Raises:
        SettingsError: if it cannot be read, is not YAML, or is no mapping.
    """
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise SettingsError(f"{path}{line}: not valid YAML: {error.problem}; correct this line") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise SettingsError(f"{path}: cannot be read: {reason}; restore the file") from None
    if not isinstance(raw, dict):
        raise SettingsError(f"{path}: expected settings (key: value), got {short(raw)}; write them or restore the file")
    return raw
