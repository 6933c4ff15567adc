"""The settings in which published runs differ: those that matter in a few lines, or all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from gvbsm.config.messages import as_in_a_row, shortened
from gvbsm.pictures.run_settings import flat
from gvbsm.store.run import Published
from gvbsm.store.spec import Json

LINES = 15  # at most, unless all are asked for
# In the order of the lines: first what makes images and labels, then what trains on them, then the teachers.
_STAGES = ("select", "recover", "relabel", "evaluate", "squeeze")
_WHO = {"squeeze": "teachers", "evaluate": "students"}
# They follow from the data set: runs on two data sets differ in them whatever their method.
_OF_DATA = ("pixels.", "network.classes", "network.channels", "network.image_size")
_OF_MACHINE = ("threads", "compile", "cpu_precision", "test_every")  # how it is computed or watched: these come last

_NONE = ""  # the value of a setting of a section, or of a network, that a run does not have


class _Setting(NamedTuple):
    """A setting of a stage, or of a teacher or student in it; "" for `network` if the stage has none of these."""

    stage: str
    network: str
    name: str


class _Line(NamedTuple):
    """A line of the list: values as JSON or `_NONE`, one per run, and the settings that it stands for."""

    title: str
    setting: _Setting
    values: tuple[str, ...]
    covers: frozenset[_Setting]


def differences(published: list[Published], everything: bool = False) -> str:
    """The settings that differ between runs, one per line; without `everything`, at most 15 lines of those that matter.

    A setting that all teachers or all students of each run share is one line, and so are several stages' settings with the
    same values. Between data sets, what follows from the data set is left out.
    """
    if len(published) < 2:
        return ""
    nested = [run.accuracies.get("settings", {}) for run in published]
    runs = [
        _settings(stages, {stage for other in nested for stage in other if _is_by_network(other[stage])}) for stages in nested
    ]
    differing = [line for setting in sorted(set().union(*runs)) if len(set((line := _line(setting, runs)).values)) > 1]
    if not differing:
        return "\nno setting differs\n"
    lines = differing
    if not everything:
        several = len({run.accuracies["dataset"] for run in published}) > 1
        lines = _that_matter(differing, runs, several)[:LINES]
        hidden = {line.setting for line in differing}.difference(*(line.covers for line in lines))
    shown = [f"  {line.title}: {' | '.join(map(_text, line.values))}" for line in lines]
    if not everything and hidden:
        shown.append(f"  ... and {len(hidden)} more, see --all")
    head = "settings that differ (" + " | ".join(run.name for run in published) + "):"
    return "\n".join(["", head, *shown]) + "\n"


def _text(value: str) -> str:
    return "-" if value == _NONE else shortened(as_in_a_row(json.loads(value)))


def _is_by_network(of_stage: Any) -> bool:
    """Whether the settings of a stage stand in parts, one per teacher or student."""
    parts = list(of_stage.values()) if isinstance(of_stage, Mapping) else []
    return bool(parts) and all(isinstance(part, Mapping) and "network" in part for part in parts)


def _settings(nested: Json, by_network: set[str]) -> dict[_Setting, str]:
    """The settings of a run, each with its value as JSON."""
    settings: dict[_Setting, str] = {}
    for stage, of_stage in nested.items():
        is_by_network = stage in by_network and isinstance(of_stage, Mapping)
        for network, part in of_stage.items() if is_by_network else [("", of_stage)]:
            settings |= {_Setting(stage, network, name): json.dumps(value) for name, value in flat(part).items()}
    return settings


def _line(setting: _Setting, runs: list[dict[_Setting, str]]) -> _Line:
    title = ".".join(part for part in setting if part)
    return _Line(title, setting, tuple(_value(setting, run) for run in runs), frozenset([setting]))


def _value(setting: _Setting, run: dict[_Setting, str]) -> str:
    """A run's value as JSON, or `_NONE`."""
    has_section = any((other.stage, other.network) == (setting.stage, setting.network) for other in run)
    return run.get(setting, "null") if has_section else _NONE  # null: it is off


def _that_matter(differing: list[_Line], runs: list[dict[_Setting, str]], several_data_sets: bool) -> list[_Line]:
    """The lines that matter, most important first."""
    derived = ("check", "prepare") if several_data_sets else ("check",)
    hidden = _OF_DATA if several_data_sets else ()
    kept = [line for line in differing if line.setting.stage not in derived and not line.setting.name.startswith(hidden)]
    lines = []
    for stage in dict.fromkeys(line.setting.stage for line in kept):
        of_stage = [line for line in kept if line.setting.stage == stage]
        if any(line.setting.network for line in of_stage):
            lines += _of_networks(stage, of_stage, runs)
        else:
            lines += of_stage
    # The settings of a section that not all have are many, and would leave no room for those that all have.
    return sorted(
        _merged(lines), key=lambda line: (line.setting.name in _OF_MACHINE, _NONE in line.values, _rank(line.setting))
    )


def _rank(setting: _Setting) -> int:
    if not setting.name and setting.stage in _WHO:  # which teachers or students there are
        return -1
    return _STAGES.index(setting.stage) if setting.stage in _STAGES else len(_STAGES)


def _of_networks(stage: str, lines: list[_Line], runs: list[dict[_Setting, str]]) -> list[_Line]:
    """The lines of a stage: which networks it has, the settings that they share, and those of single networks in all runs."""
    labels = [list(dict.fromkeys(setting.network for setting in run if setting.stage == stage)) for run in runs]
    common = set(labels[0]).intersection(*labels[1:])
    result = []
    if any(set(of_run) != common for of_run in labels):
        of_others = frozenset(line.setting for line in lines if line.setting.network not in common)
        names = tuple(json.dumps(", ".join(of_run)) if of_run else _NONE for of_run in labels)
        result.append(_Line(_WHO.get(stage, stage), _Setting(stage, "", ""), names, of_others))
    for name in dict.fromkeys(line.setting.name for line in lines):
        own = [line for line in lines if line.setting.name == name]
        values = [
            {run.get(_Setting(stage, label, name), "null") for label in of_run}
            for run, of_run in zip(runs, labels, strict=True)
        ]
        if name.startswith("network.") or any(len(of_run) != 1 for of_run in values):
            result += [line for line in own if line.setting.network in common]
        elif len(set.union(*values)) > 1:
            shared = tuple(next(iter(of_run)) for of_run in values)
            covers = frozenset(line.setting for line in own)
            result.append(_Line(f"{stage}.{name}", _Setting(stage, "", name), shared, covers))
    return result


def _merged(lines: list[_Line]) -> list[_Line]:
    """The lines, those of several stages with the same setting and values in one."""
    groups: dict[tuple[str, ...], list[_Line]] = {}
    for line in lines:
        groups.setdefault((line.setting.network, line.setting.name, *line.values), []).append(line)
    merged = []
    for first, *others in (sorted(group, key=lambda line: _rank(line.setting)) for group in groups.values()):
        if others and first.setting.name:
            title = f"{first.title} (also {', '.join(line.setting.stage for line in others)})"
            first = first._replace(title=title, covers=first.covers.union(*(line.covers for line in others)))
            merged.append(first)
        else:
            merged += [first, *others]
    return merged
