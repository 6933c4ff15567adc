"""`gvbsm <stage>` runs one stage; the other commands look after stages. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from gvbsm import __version__, keys
from gvbsm.artifacts import Job
from gvbsm.errors import Interrupted, UserError
from gvbsm.locks import CHECKPOINTS, lock_file
from gvbsm.planfiles import STORE

_STAGES = {
    "prepare": "pack a data set into one file",
    "squeeze": "train one teacher",
    "statistics": "measure a training set inside one teacher",
    "select": "choose real images that a shard starts from",
    "recover": "optimise a shard of synthetic images",
    "adopt": "take distilled images by others",
    "relabel": "store the teachers' soft labels of a range of epochs",
    "convert": "take their published soft labels of a range of epochs",
    "evaluate": "train and test one student on one set of images",
    "publish": "gather a run into acc.json, table.csv, classes.csv and images.png",
}
_SHARED = ("squeeze", "evaluate")  # by several processes, if asked to


class _Parser(argparse.ArgumentParser):
    """Mistakes are one line."""

    def error(self, message: str) -> NoReturn:
        where = self.prog.removeprefix("gvbsm").strip()
        raise UserError(f"{where}: {message}; see {self.prog} --help" if where else f"{message}; see gvbsm --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0, 1 if verify found damage, 2 after one line for what the user got wrong, or 128 + n after signal n."""
    try:
        options = _parser().parse_args(arguments)
        return _run(options)
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
    return 0


def _run(options: argparse.Namespace) -> int:
    if options.command == "explain":
        from gvbsm.explain import explain

        sys.stdout.write(explain(options.target))
    elif options.command == "estimate":
        from gvbsm.estimate import estimate

        sys.stdout.write(estimate(options.target))
    elif options.command == "verify":
        from gvbsm.verify import verify

        text, damaged = verify(options.path)
        sys.stdout.write(text)
        return 1 if damaged else 0
    elif options.command == "gc":
        from gvbsm.gc import gc

        sys.stdout.write(gc(options.delete))
    elif options.command == "import-fkd":
        from gvbsm.import_fkd import import_fkd

        sys.stdout.write(import_fkd(options.labels, options.images, options.out, options.seed))
    elif options.command == "lease":
        from gvbsm.runtime.lease import lease

        lease(options.count, options.run)
    else:
        _run_stage(options)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gvbsm", description="Dataset condensation by G-VBSM; usually run by snakemake.")
    parser.add_argument("--version", action="version", version=f"gvbsm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for stage, about in _STAGES.items():
        example = (
            f"Example: gvbsm {stage} --spec results/.plan/<key>.json --out <file>; `snakemake -n <target>` writes the plans."
        )
        command = commands.add_parser(stage, help=about, description=f"{about[0].upper()}{about[1:]}. {example}")
        command.add_argument("--spec", help="required: plan file or JSON text")
        command.add_argument("--out", type=Path, help="required: artifact to write")
        command.add_argument("--store", type=Path, default=STORE, help="where inputs are (default: %(default)s)")
        command.add_argument(
            "--device",
            default=os.environ.get("GVBSM_DEVICE", "auto"),
            help="auto, cpu, cuda[:n] or mps (default: GVBSM_DEVICE, or auto)",
        )
        root = Path(os.environ.get("GVBSM_DATA_ROOT", "data"))
        command.add_argument(
            "--data-root", type=Path, default=root, help="folder of data sets (default: GVBSM_DATA_ROOT, or data)"
        )
        if stage in _SHARED:
            command.add_argument(
                "--processes", type=_count, default=1, metavar="N", help="that train together, each on a GPU (default: 1)"
            )
        command.add_argument(
            "--workers",
            type=int,
            default=os.environ.get("GVBSM_WORKERS", _usable_cores()),
            help="processes that decode images which stay in files (default: GVBSM_WORKERS, or the usable cores, at most 16)",
        )
        command.add_argument(
            "--checkpoints", type=Path, default=CHECKPOINTS, help="folder of checkpoints (default: %(default)s)"
        )
        command.add_argument(
            "--checkpoint-seconds", type=float, default=300.0, help="time between checkpoints (default: %(default)s)"
        )
    explain = commands.add_parser("explain", help="say which artifacts of a target are present, missing or stale, and why")
    explain.add_argument("target", help="results/<dataset>/ipc<N>[-<recipe>]/acc.json")
    about = "say what a target will take: jobs, bytes, and hours at the rates of what has been run here"
    estimate = commands.add_parser("estimate", help=about, description=f"{about[0].upper()}{about[1:]}.")
    estimate.add_argument("target", help="results/<dataset>/ipc<N>[-<recipe>]/acc.json")
    about = "convert published soft labels (SRe2L, G-VBSM, EDC) and their images to files of ours, without a row"
    fkd = commands.add_parser("import-fkd", help=about, description=f"{about[0].upper()}{about[1:]}.")
    fkd.add_argument("labels", type=Path, metavar="DIR", help="folder of epoch_<k>/batch_<i>.tar; no code in them is executed")
    fkd.add_argument("--images", type=Path, required=True, help="folder or archive of the images that were labelled, by class")
    fkd.add_argument("--out", type=Path, required=True, help="folder for images.safetensors and labels-<epoch>.safetensors")
    fkd.add_argument("--seed", type=_count, default=42, help="of the sampler when they were made (default: %(default)s)")
    lease = commands.add_parser("lease", help="run a command on GPUs of its own", usage="%(prog)s -n N -- COMMAND")
    lease.add_argument("-n", dest="count", type=_count, required=True, help="how many; 0 hides all")
    lease.add_argument("run", nargs="+", metavar="COMMAND", help="what to run, after --")
    about = "check every artifact and receipt of the store, and say how to rebuild what is damaged"
    verify = commands.add_parser("verify", help=about, description=f"{about[0].upper()}{about[1:]}. Exit status 1 if any is.")
    where = "the store, a stage's folder in it, an artifact or its receipt (default: %(default)s)"
    verify.add_argument("path", type=Path, nargs="?", default=STORE, help=where)
    about = "list what neither config.yaml's targets nor a published acc.json need, or delete it"
    gc = commands.add_parser("gc", help=about, description=f"{about[0].upper()}{about[1:]}. What running jobs use is left.")
    gc.add_argument("--delete", action="store_true", help="delete what is listed")
    return parser


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, got {count}")
    return count


def _usable_cores() -> int:
    """Cores this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, 16)


def _run_stage(options: argparse.Namespace) -> None:
    from gvbsm.specs import read_spec

    stage = options.command
    if options.spec is None:
        raise UserError(f"{stage}: --spec: expected a plan file or JSON text, got none; give one")
    spec = read_spec(stage, options.spec)
    if options.out is None:
        raise UserError(f"{stage}: --out: expected the file to write, got none; give one")
    if not options.checkpoint_seconds >= 0:
        raise UserError(f"{stage}: --checkpoint-seconds: expected at least 0, got {options.checkpoint_seconds}")
    if options.workers < 0:
        raise UserError(f"{stage}: --workers: expected at least 0, got {options.workers}")
    job = Job(
        spec=spec,
        out=options.out,
        store=options.store,
        device=options.device,
        checkpoints=options.checkpoints / keys.key(spec),
        checkpoint_seconds=options.checkpoint_seconds,
        data_root=options.data_root,
        workers=options.workers,
    )
    if stage in _SHARED:
        group = int(os.environ.get("WORLD_SIZE", 1))  # as torchrun sets it
        job.processes = group if group > 1 else max(1, options.processes)
        job.writes = group == 1 or os.environ.get("RANK") == "0"
    if stage == "publish":
        importlib.import_module("gvbsm.stages.publish").run(job)
    else:
        _run_alone(job, lock_file(keys.key(spec), options.checkpoints))


def _run_alone(job: Job, file: Path) -> None:
    """Run a job unless another process makes the same artifact, whose end is waited for."""
    from gvbsm.runtime.checkpoints import install_signal_handlers

    with _together(job), _locked(job, file) as is_made:
        if is_made:
            return
        if job.spec["stage"] not in ("prepare", "adopt"):  # which have no state to save, and simply end
            install_signal_handlers()
        try:
            importlib.import_module(f"gvbsm.stages.{job.spec['stage']}").run(job)
        except Interrupted:
            if job.writes:  # the others stop at the same step, and it says so for all
                raise


def _together(job: Job) -> contextlib.AbstractContextManager[None]:
    """The other processes of a job that several share."""
    if job.processes == 1:
        return contextlib.nullcontext()
    from gvbsm.runtime.parallel import together

    return together(job.processes)


@contextlib.contextmanager
def _locked(job: Job, file: Path) -> Iterator[bool]:
    """Hold the lock of an artifact, and say whether it was made while that was waited for."""
    import filelock

    from gvbsm.runtime.parallel import ranks

    lock, waited = filelock.FileLock(file), False
    if job.writes:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except filelock.Timeout:
                sys.stderr.write(f"waiting for another process that makes {job.out.name} (it holds {file})\n")
                waited = True
                lock.acquire()
        except OSError as error:
            raise UserError(f"{file}: cannot be written: {error.strerror}; make the folder writable") from None
    try:
        yield ranks().any(waited and job.is_made())[0]
    finally:
        lock.release()


if __name__ == "__main__":
    sys.exit(main())
