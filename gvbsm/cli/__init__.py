"""The command line: `gvbsm <stage>` runs one stage, the others look after runs. Heavy modules are imported where used."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Exit status: 0; 1 if verify found damage; 2 for a UserError, shown as one line; 128 + n after signal n."""
    try:
        return _main(sys.argv[1:] if arguments is None else list(arguments))
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second Ctrl-C ends what Python still does, without a traceback
        sys.stderr.write("gvbsm: interrupted; run the same command to begin anew\n")
        return 130


def _main(given: list[str]) -> int:
    # Here, so that Ctrl-C during these imports is one line, too.
    from gvbsm.errors import Interrupted, UserError
    from gvbsm.pipeline.registry import STAGES
    from gvbsm.store.working_folder import check_working_folder

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
        sys.stderr.write(f"gvbsm: interrupted by {interrupted}, state saved; run the same command to go on\n")
        return 128 + signal.Signals[str(interrupted)]
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


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    from gvbsm.cli.commands import parser

    return parser()


if __name__ == "__main__":
    sys.exit(main())
