"""The settings of a run before it runs: its row with its recipe laid over it."""

from __future__ import annotations

from gvbsm.config.load import check_row, read_row
from gvbsm.config.messages import as_in_a_row
from gvbsm.config.origins import sourced_settings
from gvbsm.config.targets import parse_target

_MOST = 40  # characters to which short values are filled up


def row(target: str) -> str:
    """A line for every setting of a target's run: its name, its value, the file and the line that give it.

    An optional setting that no file gives is off, and has no line.

    Raises:
        SettingsError: if the target names no run, or any of its settings is wrong.
    """
    run = parse_target(target)
    read = read_row(run.dataset, run.recipe)
    check_row(*read)
    lines = [(setting.name, as_in_a_row(setting.value), setting.place) for setting in sourced_settings(*read)]
    name_width, value_width = (max(len(line[column]) for line in lines) for column in range(2))
    return "".join(f"{name:<{name_width}}  {value:<{min(value_width, _MOST)}}  {place}\n" for name, value, place in lines)
