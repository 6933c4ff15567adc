"""How a run was made, as the page shows it: settings and their sources, cost, provenance."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path

from gvbsm.config.load import read_row
from gvbsm.config.messages import SettingsError, as_in_a_row
from gvbsm.config.origins import Setting, in_config, legend, sourced_settings
from gvbsm.config.targets import Target
from gvbsm.pictures.run_settings import flat, row_text, settings_of
from gvbsm.pipeline.graph import plan_read
from gvbsm.pipeline.publish import PublishSpec
from gvbsm.pipeline.registry import STAGES
from gvbsm.pipeline.stage import Artifact
from gvbsm.store.run import ACCURACIES, SETTINGS, Cost, Published


@dataclass(frozen=True)
class SettingsFile:
    """A file that settings are from."""

    name: str
    legend: str  # what the file says its comments mean


@dataclass(frozen=True)
class SettingRow:
    """A setting and its source."""

    name: str
    value: str
    comment: str
    place: str  # file and line


@dataclass(frozen=True)
class SettingGroup:
    """The settings of a section of the files."""

    name: str
    settings: tuple[SettingRow, ...]


@dataclass(frozen=True)
class Difference:
    """A setting that the files in config/ give otherwise than was published."""

    name: str
    published: str
    now: str


@dataclass(frozen=True)
class Settings:
    """The settings of a run."""

    ipc: int
    target: str
    published: tuple[tuple[str, str], ...]  # names and values in acc.json; none before it held settings
    error: str | None = None  # why the files in config/ do not give this run any more: then nothing below is there
    files: tuple[SettingsFile, ...] = ()
    groups: tuple[SettingGroup, ...] = ()
    differences: tuple[Difference, ...] = ()


def read_settings(published: Published) -> Settings:
    """Every setting with the file, line and comment it comes from; if the files are gone, as acc.json has them."""
    accuracies = published.accuracies
    recorded = tuple((name, as_in_a_row(value)) for name, value in flat(accuracies.get("settings", {})).items())
    try:
        target = Target(accuracies["dataset"], accuracies["ipc"], accuracies["recipe"])
        read = read_row(target.dataset, target.recipe)
        settings, differences = sourced_settings(*read), _differences(published, plan_read(target, *read))
    except SettingsError as error:
        return Settings(accuracies["ipc"], published.target, recorded, error=str(error))
    texts = {setting.file: setting.source.text for setting in settings}
    return Settings(
        ipc=accuracies["ipc"],
        target=published.target,
        published=recorded,
        files=tuple(SettingsFile(in_config(file), legend(text)) for file, text in texts.items()),
        groups=_groups(settings),
        differences=differences,
    )


def _groups(settings: list[Setting]) -> tuple[SettingGroup, ...]:
    """Settings by the section they stand in; those outside any section, and the source, are the data's."""
    groups: dict[str, list[SettingRow]] = {}
    for setting in settings:
        section = setting.name.partition(".")[0].partition("[")[0]
        name = "data" if section in ("source", setting.name) else section
        groups.setdefault(name, []).append(SettingRow(setting.name, as_in_a_row(setting.value), setting.comment, setting.place))
    return tuple(SettingGroup(name, tuple(rows)) for name, rows in groups.items())


def _differences(published: Published, planned: list[Artifact]) -> tuple[Difference, ...]:
    """What the files in config/ say otherwise than was published."""
    accuracies = published.accuracies
    specs = {artifact.path: artifact.spec for artifact in planned}
    target = next(artifact.spec for artifact in planned if isinstance(artifact.spec, PublishSpec))
    needed = {path: specs[path] for path in target.input_paths()}
    now = settings_of(needed, target.inputs.teachers, target.inputs.students)
    headline = published.accuracies["provenance"]["spec"].get("headline")
    before = flat(accuracies.get("settings", {})) | {"evaluate.headline": headline}
    after = flat(json.loads(json.dumps(now))) | {"evaluate.headline": target.headline}
    names = [name for name in sorted(before.keys() | after.keys()) if before.get(name) != after.get(name)]
    return tuple(Difference(name, as_in_a_row(before.get(name)), as_in_a_row(after.get(name))) for name in names)


@dataclass(frozen=True)
class StageCost:
    """What a stage took over its jobs; None where it is not known."""

    name: str
    jobs: int
    seconds: float
    images: int | None = None
    images_per_second: float | None = None
    bytes: int | None = None
    peak_memory_bytes: int | None = None
    peak_device_memory_bytes: int | None = None


@dataclass(frozen=True)
class CostTable:
    """What every stage took, and all together."""

    stages: tuple[StageCost, ...]
    total: StageCost


def read_cost(published: Published) -> CostTable:
    """The cost of every stage, in the order of the chain."""
    stages = published.accuracies["cost"]
    order = sorted(stages, key=lambda name: list(STAGES).index(name) if name in STAGES else len(STAGES))
    sizes = [stage["bytes"] for stage in stages.values() if "bytes" in stage]
    total = StageCost(
        name="all",
        jobs=sum(stage["jobs"] for stage in stages.values()),
        seconds=sum(stage["seconds"] for stage in stages.values()),
        bytes=sum(sizes) if len(sizes) == len(stages) else None,
    )
    return CostTable(tuple(_stage_cost(name, stages[name]) for name in order), total)


def _stage_cost(name: str, cost: Cost) -> StageCost:
    return StageCost(
        name=name,
        jobs=cost["jobs"],
        seconds=cost["seconds"],
        images=cost.get("images"),
        images_per_second=cost.get("images_per_second"),
        bytes=cost.get("bytes"),
        peak_memory_bytes=cost.get("peak_memory_bytes"),
        peak_device_memory_bytes=cost.get("peak_device_memory_bytes"),
    )


@dataclass(frozen=True)
class Origin:
    """What computed a run, and how to do so again."""

    key: str
    version: str | None  # of gvbsm
    revision: str | None  # of its code
    is_dirty: bool  # the code had changes that were not committed
    python: str | None
    machine: str | None
    devices: tuple[str, ...]
    packages: tuple[tuple[str, str], ...]  # names and versions, gvbsm aside
    artifacts: tuple[tuple[str, str], ...]  # paths in the store and SHA-256
    commands: tuple[str, ...]
    row: str | None  # settings.yaml; None in earlier runs


def read_provenance(published: Published) -> Origin:
    """What acc.json says of the machine, the versions and the artifacts."""
    provenance = published.accuracies["provenance"]
    revision = provenance.get("git")
    clean = revision.removesuffix("-dirty") if revision else None
    packages = {name: version for name, version in provenance["packages"].items() if name != "gvbsm"}
    return Origin(
        key=published.accuracies["key"],
        version=provenance["packages"].get("gvbsm"),
        revision=clean,
        is_dirty=revision != clean,
        python=provenance.get("python"),
        machine=provenance.get("machine"),
        devices=tuple(provenance.get("devices", [])),
        packages=tuple(packages.items()),
        artifacts=tuple(provenance["artifacts"].items()),
        commands=_commands(published, packages, clean),
        row=row_text(row, published.name) if (row := provenance["spec"].get("row")) else None,
    )


def _commands(published: Published, packages: dict[str, str], revision: str | None) -> tuple[str, ...]:
    """From a clone of the project, with the versions of what computed. The run's own settings.yaml is the row: the files in
    config/ may never have been committed, or have changed since."""
    pinned = " ".join(shlex.quote(f"{name}=={version}") for name, version in packages.items())
    checkout = [f"git checkout {shlex.quote(revision)}"] if revision else []
    accuracies, target, copy = published.accuracies, published.target, []
    if accuracies["provenance"]["spec"].get("row"):
        target = f"results/again/ipc{accuracies['ipc']}/{ACCURACIES}"
        copy = [f"cp {shlex.quote(str(Path(published.target).with_name(SETTINGS)))} config/datasets/again.yaml"]
    return (*checkout, f"pip install -e . {pinned}", *copy, f"snakemake --cores all {shlex.quote(target)}")
