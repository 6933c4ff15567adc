"""A working folder: settings of the user's own, and a Snakefile that runs the installed workflow."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

from gvbsm.errors import UserError
from gvbsm.store.code import PROJECT

_COPIED = (Path("config/config.yaml"), Path("config/schema"), Path("workflow/profiles"))
_WRITTEN = {
    Path("workflow/Snakefile"): """# The workflow of gvbsm, as it is installed; rules of your own can follow.
from gvbsm.store.code import PROJECT


include: str(PROJECT / "workflow" / "Snakefile")
workflow.default_target = "all"  # config.yaml's targets: Snakemake takes no default from a file that is included
""",
}
_GITIGNORE = "/.snakemake/\n/data/\n/results/\n"
_EMPTY = (Path("config/datasets"), Path("config/recipes"))


def init(folder: Path) -> str:
    """Make a folder in which `snakemake` runs, and say how.

    It gets config.yaml, the schemas for editors, the profiles and a Snakefile, and room for rows and recipes; those of the
    package can be named and extended there too. A .gitignore that is there stays as it is.

    Raises:
        UserError: if a file of that name is there, or the folder cannot be written.
    """
    for file in (*_COPIED, *_WRITTEN):
        if (folder / file).exists():
            raise UserError(f"{folder / file}: expected no such file, got one; name a new folder, or remove it")
    try:
        for file in (*_WRITTEN, *_COPIED):
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
        for file in _COPIED:
            (shutil.copytree if (PROJECT / file).is_dir() else shutil.copyfile)(PROJECT / file, folder / file)
        for file, text in _WRITTEN.items():
            (folder / file).write_text(text)
        for empty in _EMPTY:
            (folder / empty).mkdir(exist_ok=True)
        ignored = folder / ".gitignore"
        kept = ignored.exists()  # as in every clone
        if not kept:
            ignored.write_text(_GITIGNORE)
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be written: {error.strerror}; name another folder") from None
    go = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(str(folder))} && "
    note = f"{ignored}: left as it was; add to it: {', '.join(_GITIGNORE.split())}\n" if kept else ""
    return (
        f"{folder}: written; your rows go to config/datasets, your recipes to config/recipes\n{note}{go}snakemake --cores all\n"
    )
