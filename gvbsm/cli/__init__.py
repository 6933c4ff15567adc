"""The command line: `gvbsm <stage>` runs one stage, the others look after runs. Heavy modules are imported where used."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from gvbsm import __version__
from gvbsm.cli.arguments import Command
from gvbsm.cli.stage import add_stage_arguments, run_stage
from gvbsm.cli.user import GROUPS
from gvbsm.errors import Interrupted, UserError
from gvbsm.pipeline.registry import STAGES
from gvbsm.store.working_folder import check_working_folder


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Exit status: 0; 1 if verify found damage; 2 for a UserError, shown as one line; 128 + n after signal n."""
    given = sys.argv[1:] if arguments is None else arguments
    try:
        if not given:
            parser().print_help()
            return 0
        options = parser().parse_args(given)
        if options.in_folder:
            check_working_folder()
        return int(options.run_command(options) or 0)
    except UserError as error:
        sys.stderr.write(f"gvbsm: {error}\n")
        return 2
    except Interrupted as interrupted:
        import signal

        sys.stderr.write(f"gvbsm: interrupted by {interrupted}, state saved; run the same command to go on\n")
        return 128 + signal.Signals[str(interrupted)]
    except KeyboardInterrupt:
        sys.stderr.write("gvbsm: interrupted; run the same command to begin anew\n")
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        # A stage says itself what may go wrong with its files. Errors without a reason are those of libraries.
        if given[0] in STAGES or error.strerror is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(
            f"gvbsm: {where}cannot be read or written: {error.strerror}; make it readable and writable, or name another\n"
        )
        return 2
    return 0


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


if __name__ == "__main__":
    sys.exit(main())
