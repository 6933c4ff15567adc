"""`gvbsm <stage>` runs one stage, `gvbsm explain` says what is stale and why. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from gvbsm import __version__, keys
from gvbsm.errors import Interrupted, UserError


class _Parser(argparse.ArgumentParser):
    """Mistakes are one line."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; see {self.prog} --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0, or 2 after one line for what the user got wrong, or 128 + n after signal n."""
    try:
        options = _parser().parse_args(arguments)
        if options.command == "explain":
            from gvbsm.explain import explain

            sys.stdout.write(explain(options.target))
        else:
            _run_stage(options)
    except UserError as error:
        sys.stderr.write(f"gvbsm: {error}\n")
        return 2
    except Interrupted as interrupted:
        import signal

        sys.stderr.write(f"gvbsm: interrupted by {interrupted}, state saved; run the same command to go on\n")
        return 128 + signal.Signals[str(interrupted)]
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gvbsm", description="Dataset condensation by G-VBSM; usually run by snakemake.")
    parser.add_argument("--version", action="version", version=f"gvbsm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage in keys.STAGES:
        about = f"run one {stage} job"
        command = commands.add_parser(stage, help=about, description=f"{about} and write its artifact and receipt.")
        command.add_argument("--spec", help="plan file (results/.plan/<key>.json) or JSON text")
        command.add_argument("--out", type=Path, help="artifact to write")
        command.add_argument("--store", type=Path, default=Path("results/store"), help="where inputs are (%(default)s)")
        command.add_argument("--device", default=os.environ.get("GVBSM_DEVICE", "auto"), help="auto, cpu, cuda[:n] or mps")
        root = Path(os.environ.get("GVBSM_DATA_ROOT", "data"))
        command.add_argument("--data-root", type=Path, default=root, help="folder of data sets (%(default)s)")
        folder = Path("results/.checkpoints")
        command.add_argument("--checkpoints", type=Path, default=folder, help="folder of checkpoints (%(default)s)")
        command.add_argument("--checkpoint-seconds", type=float, default=300.0, help="time between them (%(default)s)")
    explain = commands.add_parser("explain", help="what of a target is present or stale, and why")
    explain.add_argument("target", help="results/<dataset>/ipc<N>[-<recipe>]/acc.json")
    return parser


def _run_stage(options: argparse.Namespace) -> None:
    from gvbsm.artifacts import Job
    from gvbsm.specs import read_spec

    stage = options.command
    if options.spec is None:
        raise UserError(f"gvbsm {stage}: --spec: expected a plan file or JSON text, got none; give one")
    spec = read_spec(stage, options.spec)
    if options.out is None:
        raise UserError(f"gvbsm {stage}: --out: expected the file to write, got none; give one")
    if not options.checkpoint_seconds >= 0:
        raise UserError(f"gvbsm {stage}: --checkpoint-seconds: expected at least 0, got {options.checkpoint_seconds}")
    job = Job(
        spec=spec,
        out=options.out,
        store=options.store,
        device=options.device,
        checkpoints=options.checkpoints / keys.key(spec),
        checkpoint_seconds=options.checkpoint_seconds,
        data_root=options.data_root,
    )
    if stage != "publish":
        from gvbsm.runtime.checkpoints import install_signal_handlers

        install_signal_handlers()
    importlib.import_module(f"gvbsm.stages.{stage}").run(job)


if __name__ == "__main__":
    sys.exit(main())
