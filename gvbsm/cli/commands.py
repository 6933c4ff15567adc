"""The parser of the command line, from the commands for users and from the stages."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from gvbsm import __version__
from gvbsm.cli.arguments import Command
from gvbsm.cli.stage import add_stage_arguments, run_stage
from gvbsm.cli.user import GROUPS
from gvbsm.errors import UserError
from gvbsm.pipeline.registry import STAGES


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line, and which takes no beginning of an option for the option."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)

    def error(self, message: str) -> NoReturn:
        where = self.prog.removeprefix("gvbsm").strip()
        raise UserError(f"{where}: {message}; see {self.prog} --help" if where else f"{message}; see gvbsm --help")


def parser() -> argparse.ArgumentParser:
    """The parser of the command line. Its help lists the commands in groups, those of users first, which argparse cannot."""
    root = _Parser(
        prog="gvbsm",
        usage="gvbsm COMMAND ...",
        description="Dataset condensation by G-VBSM. `snakemake --cores all` makes runs; these commands look after them.",
        epilog=_listing(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"gvbsm {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS)
    for command in (command for group in GROUPS.values() for command in group):
        _add(commands, command)
    for stage in STAGES.values():
        example = (
            f" Example: gvbsm {stage.name} --spec results/.plan/<key>.json --out <file>; `snakemake -n <target>` writes plans."
        )
        added = _add(commands, Command(stage.name, stage.about, run_stage, more=example))
        add_stage_arguments(added, stage)
    return root


def _add(commands: argparse._SubParsersAction[_Parser], command: Command) -> argparse.ArgumentParser:
    description = f"{command.about[0].upper()}{command.about[1:]}.{command.more}"
    added = commands.add_parser(command.name, description=description, usage=command.usage, prog=f"gvbsm {command.name}")
    command.add_arguments(added)
    added.set_defaults(run_command=command.run, in_folder=command.in_folder)
    return added


def _listing() -> str:
    """Every command in a line, in groups."""
    groups = {heading: {command.name: command.about for command in group} for heading, group in GROUPS.items()}
    groups["stages, which snakemake runs"] = {stage.name: stage.about for stage in STAGES.values()}
    width = max(len(name) for group in groups.values() for name in group)
    lines = []
    for heading, group in groups.items():
        lines += [f"{heading}:", *(f"  {name:<{width}}  {about}" for name, about in group.items()), ""]
    return "\n".join([*lines, "gvbsm COMMAND --help says more of a command."])
