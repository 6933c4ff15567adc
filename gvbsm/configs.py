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

_OF_A_RUN = ("acc.json", "table.csv", "classes.csv", "images.png", "pictures.txt", "report.html")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # of data sets and recipes: they become folders, and stand in commands


def config_folder() -> Path:
    """`config/` of the working directory, or else the one beside the package."""
    here = Path("config")
    return here if here.is_dir() else PACKAGE.parent / "config"


def rows_folder(kind: str) -> Path:
    """`config/<kind>/` ("datasets" or "recipes") of the working directory, or else the one beside the package: another workflow
    that uses this one as a module has a `config/` of its own."""
    here = Path("config") / kind
    return here if here.is_dir() else PACKAGE.parent / "config" / kind


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
    named = {f"targets[{index}]": target for index, target in enumerate(config.targets)}
    for name in config.comparisons or {}:
        check_name(name, "comparison", f"{path}: comparisons: ")
        named[f"comparisons.{name}"] = f"results/{name}/compare.csv"
    for where, target in named.items():
        try:
            runs_of(config, target)
        except SettingsError as error:
            raise SettingsError(f"{path}: {where}: {error}") from None
    return config


def runs_of(config: Config, target: str) -> list[str]:
    """The acc.json of a target's run, or those of the runs that it compares.

    Raises:
        SettingsError: if it has neither form, or nothing is said to be compared there.
    """
    path = Path(target)
    runs = comparison(config, path.parent.name) if path.name == "compare.csv" and len(path.parts) > 1 else [target]
    for run in runs:
        parse_target(run)
    return [str(Path(run).with_name("acc.json")) for run in runs]


def comparison(config: Config, name: str) -> list[str]:
    """The acc.json of every run that results/<name>/compare.csv puts side by side.

    Raises:
        SettingsError: if there are none.
    """
    runs = (config.comparisons or {}).get(name)
    if not runs:
        raise SettingsError(
            f"results/{name}/compare.csv: expected the runs to compare, got none; add comparisons: {{{name}: [ipc10, "
            f"ipc10-<recipe>]}} to {config_folder() / 'config.yaml'}"
        )
    return [f"results/{run if '/' in run else f'{name}/{run}'}/acc.json" for run in runs]


def parse_target(target: str) -> tuple[str, int, str | None]:
    """Data set, IPC and recipe of `results/<dataset>/ipc<N>[-<recipe>]/acc.json`.

    Raises:
        SettingsError: if it has another form or IPC is not at least 1.
    """
    form = "results/<dataset>/ipc<N>[-<recipe>]/acc.json"
    parts = Path(target).parts
    if len(parts) < 3 or ".." in parts or parts[-1] not in _OF_A_RUN:
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
