"""config.yaml, and the names that targets are made of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from gvbsm.keys import PACKAGE
from gvbsm.mistakes import SettingsError, one_line, short
from gvbsm.settings import Config

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # of data sets and recipes: they become folders, and stand in commands


def config_folder() -> Path:
    """`config/` of the working directory, or else the one beside the package."""
    here = Path("config")
    return here if here.is_dir() else PACKAGE.parent / "config"


def load_config(values: dict[str, Any] | None = None) -> Config:
    """config.yaml as typed settings; `values` are Snakemake's, when it has read the file and --config already.

    Raises:
        SettingsError: for anything wrong in it.
    """
    path = config_folder() / "config.yaml"
    raw = read_yaml(path) if values is None else values
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(one_line(error, Config, {(): path})) from None
    for index, target in enumerate(config.targets):
        try:
            parse_target(target)
        except SettingsError as error:
            raise SettingsError(f"{path}: targets[{index}]: {error}") from None
    return config


def parse_target(target: str) -> tuple[str, int, str | None]:
    """Data set, IPC and recipe of `results/<dataset>/ipc<N>[-<recipe>]/acc.json`.

    Raises:
        SettingsError: if it has another form or IPC is not at least 1.
    """
    form = "results/<dataset>/ipc<N>[-<recipe>]/acc.json"
    parts = Path(target).parts
    if len(parts) < 3 or ".." in parts or parts[-1] not in ("acc.json", "table.csv", "classes.csv", "images.png"):
        raise SettingsError(f"target {target!r}: expected {form}; ask for a path of this form")
    check_name(parts[-3], "data set")
    return parts[-3], *parse_run(parts[-2])


def parse_run(run: str) -> tuple[int, str | None]:
    """IPC and recipe of `ipc<N>` or `ipc<N>-<recipe>`.

    Raises:
        SettingsError: if it has another form or IPC is not at least 1.
    """
    match = re.fullmatch(r"ipc(0|-?[1-9]\d*)(?:-([A-Za-z0-9][A-Za-z0-9_.-]*))?", run)
    if match is None:
        raise SettingsError(f"run {run!r}: expected ipc<N> or ipc<N>-<recipe>, such as ipc10; correct the target")
    ipc = int(match[1])
    if not 1 <= ipc <= 100_000:
        raise SettingsError(f"run {run!r}: expected 1 to 100000 images per class, got {ipc}; correct the target")
    return ipc, match[2]


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number and a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            if isinstance(key_node, yaml.ScalarNode) and key_node.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key_node.value!r} stands twice", problem_mark=key_node.start_mark)
            seen.add(str(key_node.value))
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)$"), list("-+.0123456789")
)


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a file.

    Raises:
        SettingsError: if it cannot be read, is not YAML, or holds anything else.
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


def check_name(name: str, what: str, asked_by: str = "") -> None:
    """Refuse a name that could not become a folder or stand in a command."""
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{asked_by}{what} {name!r}: expected letters, digits, '_', '.' and '-', a letter or digit first; correct the name"
        )
