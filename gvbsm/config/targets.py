"""The names of runs and targets: `results/<dataset>/ipc<N>[-<recipe>]`, and the files in it."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gvbsm.config.messages import SettingsError, did_you_mean
from gvbsm.store.run import ACCURACIES, PICTURE_FORMS, PICTURES, RUN_FILES
from gvbsm.store.working_folder import RESULTS

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")  # of data sets and recipes: parts of paths and of commands
_OURS = ("store", "logs", "benchmarks", "tracking")  # what else is in results/
_FILES = (*RUN_FILES, *(f"pictures/{picture}.{form}" for picture in PICTURES for form in PICTURE_FORMS))
_COMPARISON: tuple[str, ...] = ("compare.csv", *(f"compare.{form}" for form in PICTURE_FORMS))
_FORM = f"{RESULTS}/<dataset>/ipc<N>[-<recipe>]"


@dataclass(frozen=True)
class Target:
    """A run, and the file of it that is asked for."""

    dataset: str
    ipc: int
    recipe: str | None = None
    file: str = ACCURACIES

    @property
    def run(self) -> str:
        """The folder's name: ipc10, ipc10-edc."""
        return f"ipc{self.ipc}" + (f"-{self.recipe}" if self.recipe else "")

    @property
    def folder(self) -> Path:
        """Where the run is published, relative to the working folder."""
        return Path(RESULTS) / self.dataset / self.run

    @property
    def accuracies(self) -> Path:
        """Its acc.json."""
        return self.folder / ACCURACIES


def parse_target(target: str, or_comparison: bool = False) -> Target:
    """The run that a path names: its folder, with or without a slash, or any file in it.

    `or_comparison`: the error offers comparisons, too.

    Raises:
        SettingsError: if it has another form, IPC is not at least 1, or it is in another working folder.
    """
    parts = Path(target).parts
    above = parts[:-2]  # a data set and a run follow `results`
    has_run = ".." not in parts and RESULTS in above
    start = len(above) - above[::-1].index(RESULTS) if has_run else 0
    dataset, run, *rest = parts[start:] if has_run else ("", "")
    is_file = rest[:1] == ["pictures"] or (len(rest) == 1 and rest[0] in RUN_FILES)
    if not has_run or (rest and not is_file):
        raise no_such_target(target, or_comparison=or_comparison)
    check_folder(target, Path(*parts[: start - 1]))
    check_name(dataset, "data set")
    return Target(dataset, *parse_run(run), "/".join(rest) or ACCURACIES)


def check_folder(target: str, folder: Path) -> None:
    """Check that the folder of a target's `results` is this working folder; its `results` may be a link to another disk.

    Raises:
        SettingsError: if not; what is made here says nothing of the runs of another folder.
    """
    try:
        is_here = (folder / RESULTS).resolve() == Path(RESULTS).resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, NUL
        is_here = False
    if not is_here:
        raise SettingsError(
            f"target {target!r}: expected a path in this working folder ({Path.cwd()}), got one in another; "
            f"change to that one first: cd {shlex.quote(str(folder))}"
        )


def no_such_target(target: str, rules: Sequence[str] = (), or_comparison: bool = True) -> SettingsError:
    """The error to raise for a target that is no file of a run or, where that is one, a comparison; it names what was meant."""
    near = _near(target, or_comparison)
    hint = did_you_mean(target, rules) or (f"did you mean {near!r}? " if near else "")
    files = f"{', '.join(RUN_FILES)} or pictures/<{'|'.join(PICTURES)}>.png"
    comparison = f", or {RESULTS}/<name>/{_COMPARISON[0]}" if or_comparison else ""
    return SettingsError(f"target {target!r}: expected {_FORM} or a file of it ({files}){comparison}; {hint}correct the path")


def _near(target: str, or_comparison: bool) -> str | None:
    """The target most like a misspelt one."""
    parts = Path(target).parts
    at = next((at for at, part in enumerate(parts) if at and re.match(r"ipc\d", part)), None)
    if at is None:
        folder, file, files = (
            parts[-2:-1],
            "".join(parts[-1:]),
            _COMPARISON if or_comparison and parts[:-1] != (RESULTS,) else (),
        )
    else:
        folder, file, files = parts[at - 1 : at + 1], "/".join(parts[at + 1 :]) or ACCURACIES, _FILES
    names = difflib.get_close_matches(file, files, 1) if all(_NAME.fullmatch(part) for part in folder) and folder else []
    return "/".join([RESULTS, *folder, names[0]]) if names else None


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


def check_name(name: str, what: str, where: str = "") -> None:
    """Check that a name is safe in a path and in a command, and its folder in results/ free; `where` begins the error message.

    Raises:
        SettingsError: if not.
    """
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{where}{what} {name!r}: expected letters, digits, '_', '.' and '-', a letter or digit first; correct the name"
        )
    if what != "recipe" and name in _OURS:  # a recipe's name is only a part of its folder's
        raise SettingsError(
            f"{where}{what} {name!r}: expected another name, since {RESULTS}/{name} is a folder of our own; choose another"
        )
