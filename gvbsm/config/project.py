"""config.yaml: what a bare `snakemake` makes, where data sets are, and which runs are compared."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from gvbsm import __version__
from gvbsm.config.bounds import unit
from gvbsm.config.messages import SettingsError, Source, did_you_mean, one_line
from gvbsm.config.sources import DataPath, Seed, Strict
from gvbsm.config.studies import Study, read_study, study_file, study_names
from gvbsm.config.targets import Target, check_folder, check_name, parse_target
from gvbsm.config.yaml_files import config_file, read_yaml
from gvbsm.store.code import IN_CLONE, PROJECT
from gvbsm.store.spec import Json
from gvbsm.store.working_folder import RESULTS


class Pictures(Strict):
    """What the pictures of a run show beside its own images."""

    real: Annotated[int, Field(ge=2, le=100_000)] = Field(
        description="Random real images per class beside the distilled ones.", json_schema_extra=unit("images")
    )
    seed: Seed = Field(description="Seed of these images and of t-SNE.")
    perplexity: Annotated[float, Field(ge=1, le=1000)] = Field(
        description="Perplexity of t-SNE: about how many neighbours an image has."
    )


class Config(Strict):
    """config/config.yaml."""

    targets: Annotated[list[str], Field(min_length=1)] = Field(
        description="Files that `snakemake` makes when it is given no target."
    )
    data_root: DataPath = Field(
        description="Folder of data sets, relative to the working folder or absolute; GVBSM_DATA_ROOT counts before it."
    )
    tracking: Literal["none", "tensorboard", "wandb"] | None = Field(
        default=None, description="Tool that keeps curves of every job in `results/tracking`; off: none."
    )
    comparisons: dict[str, Annotated[list[str], Field(min_length=1)]] | None = Field(
        default=None, description="Runs that `results/<name>/compare.csv` puts side by side."
    )
    pictures: Pictures | None = Field(
        default=None,
        description="Settings of `results/<dataset>/<run>/pictures`; off: the pictures that need them are not made.",
    )


def load_config(values: Json | None = None) -> Config:
    """config.yaml as typed settings; `values` is its content as Snakemake has read it, merged with --config.

    Raises:
        SettingsError: for anything wrong in it.
    """
    path = config_file()
    raw = read_yaml(path) if values is None else values
    try:
        config = Config.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(one_line(error, Config, {(): Source(path)})) from None
    named = {}
    for name in config.comparisons or {}:  # before the targets, one of which may be that of a wrong comparison
        check_name(name, "comparison", f"{path}: comparisons: ")
        named[f"comparisons.{name}"] = f"{RESULTS}/{name}/compare.csv"
    named |= {f"targets[{index}]": target for index, target in enumerate(config.targets)}
    for where, target in named.items():
        try:
            runs_of(config, target)
        except SettingsError as error:
            raise SettingsError(f"{path}: {where}: {error}") from None
    return config


def runs_of(config: Config, target: str) -> list[Target]:
    """The run that a target names, or those that it compares.

    Raises:
        SettingsError: if it has neither form, or neither config.yaml nor a study names runs to compare there.
    """
    path = Path(target)
    if path.name == "compare.csv" and path.parts[-3:-2] == (RESULTS,):
        check_folder(target, path.parents[2])
        return comparison(config, path.parent.name)
    return [parse_target(target, or_comparison=True)]


def comparison(config: Config, name: str) -> list[Target]:
    """Every run that results/<name>/compare.csv puts side by side: of a comparison in config.yaml, or of a study.

    Raises:
        SettingsError: if neither names any, or one has another form.
    """
    if runs := (config.comparisons or {}).get(name):
        return [parse_target(f"{RESULTS}/{run if '/' in run else f'{name}/{run}'}") for run in runs]
    if study := read_study(name):
        return [_run_of_study(name, study, run) for run in study.runs]
    hint = did_you_mean(name, [*(config.comparisons or {}), *study_names()])
    raise SettingsError(
        f"{RESULTS}/{name}/compare.csv: expected the runs to compare, got none; {hint}add comparisons: {{{name}: [ipc10, "
        f"ipc10-<recipe>]}} to {config_file()}"
    )


def _run_of_study(name: str, study: Study, run: str) -> Target:
    row, _, rest = run.partition("/")
    try:
        return parse_target(f"{RESULTS}/{f'{name}.{row}' if row in study.rows else row}/{rest}")
    except SettingsError as error:
        raise SettingsError(f"{study_file(name)}: runs: {error}") from None


def job_environment(config: Config) -> dict[str, str]:
    """Variables that every command of the workflow finds in its environment.

    They are not parameters of rules, so that another data folder or tracking tool makes no artifact stale. Nor are they set in
    Snakemake's `shell.prefix`, which a workflow that uses this one as a module would share. The caller's own GVBSM_DATA_ROOT
    and GVBSM_TRACKING count before the settings, as they do for every command.
    """
    variables = {
        # This Python's folder has gvbsm, if snakemake is called by its path. It is last: an activated environment's wins.
        "PATH": os.pathsep.join([os.environ.get("PATH", os.defpath), str(Path(sys.executable).parent)]),
        "GVBSM_DATA_ROOT": os.environ.get("GVBSM_DATA_ROOT") or config.data_root,
        "GVBSM_SOURCE": str(PROJECT) if IN_CLONE else f"gvbsm=={__version__}",  # what envs/gvbsm.post-deploy.sh installs
    }
    tracking = os.environ.get("GVBSM_TRACKING") or config.tracking
    return variables | ({"GVBSM_TRACKING": tracking} if tracking else {})
