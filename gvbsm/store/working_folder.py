"""The working folder, in which snakemake is called, and commands for it. Standard library only."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable
from pathlib import Path

from gvbsm.errors import UserError, file_in_the_way

RESULTS = "results"
OWN = tuple(f"{RESULTS}/{name}" for name in ("store", ".plan", ".checkpoints", "logs", "benchmarks"))  # folders of every run
_SETTINGS = ("config/config.yaml", "config/datasets", "config/recipes")  # what a working folder may have before any run


def check_working_folder() -> None:
    """Check that this is a working folder: one where runs were made, or one with settings of the user's own.

    Raises:
        UserError: if it is not, or a folder in it is a file: every run would look as if it had never been made.
    """
    check_folders(map(Path, OWN))
    if not any(Path(entry).exists() for entry in (RESULTS, *_SETTINGS)):
        raise UserError(
            f"{Path.cwd()}: expected a working folder, with {RESULTS}/ or {_SETTINGS[0]}, got neither; change to the folder "
            "where you call snakemake, or make one with: gvbsm init"
        )


def check_folders(folders: Iterable[Path], to_write: bool = False) -> None:
    """Check that folders are folders, or can be made; `to_write`: and that files can be made in them.

    Raises:
        UserError: for the first that is not.
    """
    for folder in folders:
        if error := file_in_the_way(folder):
            raise error
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if to_write and not os.access(existing, os.W_OK | os.X_OK):
            name = f"{existing.absolute()}" if existing == Path() else str(existing)
            raise UserError(f"{name}: expected a folder to write in, got one that is read-only; make it writable")


def make_command(file: Path, *stale: Path) -> str:
    """The shell command that makes a file, below `results/` from its working folder, after it has removed `stale` beside it."""
    steps, folder = [], Path()
    if len(file.parts) > 4 and file.parts[-4] == RESULTS:
        folder = file.parents[3]  # Snakemake needs the path relative to the working folder
        steps.append(f"cd {shlex.quote(str(folder))}")
    names = [shlex.quote(str(path.relative_to(folder) if steps else path)) for path in (file, *stale)]
    if stale:  # Snakemake makes a requested file only if it is missing
        steps.append(f"rm -f {' '.join(names[1:])}")
    return " && ".join([*steps, f"snakemake --cores all {names[0]}"])
