"""The command line: `gvbsm <stage>` runs one stage, the others manage runs. Heavy modules are imported where they are used."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from gvbsm import __version__
from gvbsm.errors import Interrupted, UserError
from gvbsm.pipeline.registry import STAGES
from gvbsm.pipeline.scale import images_per_step
from gvbsm.pipeline.stage import Stage
from gvbsm.store.job import Job
from gvbsm.store.locks import CHECKPOINTS, lock_file
from gvbsm.store.plans import STORE
from gvbsm.store.progress import progress_file

_RUN = "results/<dataset>/<run>, or a file of it such as acc.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Exit status: 0; 1 if verify found damage; 2 for a UserError, shown as one line; 128 + n after signal n."""
    try:
        options = parser().parse_args(arguments)
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
    return 0


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        where = self.prog.removeprefix("gvbsm").strip()
        raise UserError(f"{where}: {message}; see {self.prog} --help" if where else f"{message}; see gvbsm --help")


def parser() -> argparse.ArgumentParser:
    """The parser of the command line."""
    root = _Parser(prog="gvbsm", description="Dataset condensation by G-VBSM; usually run by snakemake.")
    root.add_argument("--version", action="version", version=f"gvbsm {__version__}")
    commands = root.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int | None], about: str, more: str = "", **options: Any
    ) -> argparse.ArgumentParser:
        description = f"{about[0].upper()}{about[1:]}.{more}"
        added = commands.add_parser(name, help=about, description=description, **options)
        added.set_defaults(run_command=run)
        return added

    for stage in STAGES.values():
        example = (
            f" Example: gvbsm {stage.name} --spec results/.plan/<key>.json --out <file>; `snakemake -n <target>` writes plans."
        )
        _add_stage_arguments(command(stage.name, _run_stage, stage.about, example), stage)
    _add_run_commands(command)
    _add_store_commands(command)
    _add_listing_commands(command)
    return root


def _add_stage_arguments(command: argparse.ArgumentParser, stage: Stage) -> None:
    environment = os.environ
    command.add_argument("--spec", help="required: plan file or JSON text")
    command.add_argument("--out", type=Path, help="required: artifact to write")
    command.add_argument("--store", type=Path, default=STORE, help="folder of the inputs (default: %(default)s)")
    device = "auto, cpu, cuda[:n] or mps (default: GVBSM_DEVICE, or auto)"
    command.add_argument("--device", default=environment.get("GVBSM_DEVICE", "auto"), help=device)
    root = Path(environment.get("GVBSM_DATA_ROOT", "data"))
    command.add_argument("--data-root", type=Path, default=root, help="folder of data sets (default: GVBSM_DATA_ROOT, or data)")
    if stage.shared:
        together = "that train together, each on a GPU (default: 1)"
        command.add_argument("--processes", type=_count, default=1, metavar="N", help=together)
    if stage.ahead:
        about = "also do the work of planned jobs that wait and read the same images: it goes into their checkpoints"
        command.add_argument("--ahead", action="store_true", help=about)
    command.add_argument(
        "--workers",
        type=int,
        default=environment.get("GVBSM_WORKERS", _usable_cores()),
        help="processes that decode image files (default: GVBSM_WORKERS, or the usable cores, at most 16)",
    )
    command.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder of checkpoints (default: %(default)s)")
    seconds = "time between checkpoints (default: %(default)s)"
    command.add_argument("--checkpoint-seconds", type=float, default=300.0, help=seconds)


def _add_run_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Commands that take runs."""
    about = "list the artifacts of a target: present, missing or stale, and why"
    command("explain", _explain, about).add_argument("target", help=_RUN)
    about = "estimate the cost of a target: jobs, bytes, and hours at the rates of earlier jobs here or of recorded ones"
    command("estimate", _estimate, about).add_argument("target", help=_RUN)
    status = command(
        "status", _status, "show the progress of runs: jobs made, running and to do, and the progress of every running job"
    )
    which = f"{_RUN} (default: those of config.yaml, and all that have been planned)"
    status.add_argument("targets", nargs="*", metavar="TARGET", help=which)
    about = "show it again every SECONDS (default: 2) until all jobs are made"
    status.add_argument("--watch", type=_seconds, nargs="?", const=2.0, metavar="SECONDS", help=about)
    compare = command("compare", _compare, "put published runs side by side: accuracies, cost, and the settings that differ")
    compare.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=_RUN)
    compare.add_argument("--csv", type=Path, metavar="FILE", help="also write the table to FILE")
    about = "draw accuracy against images per class and label bytes (.png or .svg); may be given twice"
    compare.add_argument("--picture", type=Path, metavar="FILE", action="append", help=about)
    about = "write a published run as one HTML page: accuracies, pictures, settings with their sources, cost, provenance"
    report = command("report", _report, about)
    report.add_argument("run", type=Path, metavar="RUN", help=_RUN)
    report.add_argument("--out", type=Path, metavar="FILE", help="page to write (default: report.html beside acc.json)")
    about = "write a published run to a folder for others: lossless images, soft labels, class names, a card"
    export = command("export", _export, about)
    export.add_argument("run", type=Path, metavar="RUN", help=_RUN)
    export.add_argument("--to", required=True, choices=("imagefolder", "webdataset", "huggingface"), help="format to write")
    export.add_argument("--out", type=Path, required=True, metavar="DIR", help="new or empty folder")
    about = "terms of the source, for the card (default: those that are known, if any)"
    export.add_argument("--licence", metavar="TEXT", help=about)


def _add_store_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Commands that take files, or no arguments."""
    about = "convert published soft labels (SRe2L, G-VBSM, EDC) and their images to gvbsm's files, without a row"
    fkd = command("import-fkd", _import_fkd, about)
    fkd.add_argument("labels", type=Path, metavar="DIR", help="folder of epoch_<k>/batch_<i>.tar; no code in them is executed")
    fkd.add_argument("--images", type=Path, required=True, help="folder or archive of the labelled images, by class")
    fkd.add_argument("--out", type=Path, required=True, help="folder for images.safetensors and labels-<epoch>.safetensors")
    fkd.add_argument("--seed", type=_count, default=42, help="seed with which images were sampled (default: %(default)s)")
    lease = command("lease", _lease, "run a command on GPUs of its own", usage="%(prog)s -n N -- COMMAND")
    lease.add_argument("-n", dest="count", type=_count, required=True, help="number of GPUs; 0 hides all")
    lease.add_argument("run", nargs="+", metavar="COMMAND", help="command to run, after --")
    about = "check every artifact and receipt of the store, and name the commands that rebuild damaged ones"
    verify = command("verify", _verify, about, " Exit status 1 if there is any damage.")
    where = "the store, a stage's folder in it, an artifact or its receipt (default: %(default)s)"
    verify.add_argument("path", type=Path, nargs="?", default=STORE, help=where)
    about = "list files that no target in config.yaml, no published or unfinished run and no picture needs, or delete them"
    gc = command("gc", _gc, about, " Files that running jobs use stay.")
    gc.add_argument("--delete", action="store_true", help="list them, then delete them")
    about = "also those of runs that are planned and not finished: interrupted or failed ones, or planned by snakemake -n alone"
    gc.add_argument("--unfinished", action="store_true", help=about)


def _add_listing_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Commands that list what files in config/ may contain."""
    about = "print every setting: name, type, bounds, unit, meaning"
    settings = command("settings", _settings, about)
    section = "part of a row (row, recover, recover.ema, ...) or config (default: all)"
    settings.add_argument("section", nargs="?", metavar="SECTION", help=section)
    other = settings.add_mutually_exclusive_group()
    schema = "print a JSON schema for editors instead: of data sets and recipes, of config.yaml, or of study.yaml"
    other.add_argument("--json-schema", choices=("row", "config", "study"), help=schema)
    fresh = "write the tables in FOLDER/README.md and the schemas in FOLDER/schema/ anew instead"
    other.add_argument("--refresh", type=Path, metavar="FOLDER", help=fresh)
    command("networks", _networks, "list the networks that a row may name, with their options")
    command("recipes", _recipes, "list the recipes in config/recipes/")
    command("datasets", _datasets, "list the data sets in config/datasets/")


def _count(text: str) -> int:
    count = int(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"expected at least 0, got {count}")
    return count


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected seconds, got {text!r}; put targets before it") from None
    if not 0.1 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"expected 0.1 to 86400 seconds, got {text}")
    return seconds


def _usable_cores() -> int:
    """Cores this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, 16)


def _explain(options: argparse.Namespace) -> None:
    from gvbsm.commands.explain import explain

    sys.stdout.write(explain(options.target))


def _estimate(options: argparse.Namespace) -> None:
    from gvbsm.commands.estimate import estimate

    sys.stdout.write(estimate(options.target))


def _status(options: argparse.Namespace) -> None:
    from gvbsm.commands.status import status, watch

    if options.watch is None:
        sys.stdout.write(status(options.targets))
    else:
        watch(options.targets, options.watch)


def _compare(options: argparse.Namespace) -> None:
    from gvbsm.commands.compare import compare

    sys.stdout.write(compare(options.runs, options.csv, options.picture))


def _report(options: argparse.Namespace) -> None:
    from gvbsm.report.page import report

    sys.stdout.write(report(options.run, options.out))


def _export(options: argparse.Namespace) -> None:
    from gvbsm.share.export import export

    sys.stdout.write(export(options.run, options.to, options.out, options.licence))


def _import_fkd(options: argparse.Namespace) -> None:
    from gvbsm.share.import_fkd import import_fkd

    sys.stdout.write(import_fkd(options.labels, options.images, options.out, options.seed))


def _lease(options: argparse.Namespace) -> None:
    from gvbsm.runtime.lease import lease

    lease(options.count, options.run)


def _verify(options: argparse.Namespace) -> int:
    from gvbsm.commands.verify import verify

    text, damaged = verify(options.path)
    sys.stdout.write(text)
    return 1 if damaged else 0


def _gc(options: argparse.Namespace) -> None:
    from gvbsm.commands.gc import gc

    for line in gc(options.delete, options.unfinished):
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()  # a list in a pipe or log is whole before anything is deleted


def _settings(options: argparse.Namespace) -> None:
    import shutil

    from gvbsm.commands import settings

    if options.section and (options.json_schema or options.refresh):
        raise UserError("settings: expected SECTION alone, got an option that covers all sections too; remove one of them")
    if options.json_schema:
        text = settings.schema_text(options.json_schema)
    elif options.refresh:
        text = settings.refresh(options.refresh)
    else:
        text = settings.settings(options.section, shutil.get_terminal_size((160, 24)).columns)
    sys.stdout.write(text)


def _networks(options: argparse.Namespace) -> None:
    from gvbsm.commands.listing import networks

    sys.stdout.write(networks())


def _recipes(options: argparse.Namespace) -> None:
    from gvbsm.commands.listing import rows

    sys.stdout.write(rows("recipes"))


def _datasets(options: argparse.Namespace) -> None:
    from gvbsm.commands.listing import rows

    sys.stdout.write(rows("datasets"))


def _run_stage(options: argparse.Namespace) -> None:
    from gvbsm.pipeline.specs import read_spec

    stage = STAGES[options.command]
    if options.spec is None:
        raise UserError(f"{stage.name}: --spec: expected a plan file or JSON text, got none; give one")
    spec = read_spec(stage, options.spec)
    if options.out is None:
        raise UserError(f"{stage.name}: --out: expected the file to write, got none; give one")
    if not options.checkpoint_seconds >= 0:
        raise UserError(f"{stage.name}: --checkpoint-seconds: expected at least 0, got {options.checkpoint_seconds}")
    if options.workers < 0:
        raise UserError(f"{stage.name}: --workers: expected at least 0, got {options.workers}")
    job = Job(
        spec=spec,
        out=options.out,
        store=options.store,
        device=options.device,
        checkpoints=options.checkpoints / spec.key,
        checkpoint_seconds=options.checkpoint_seconds,
        data_root=options.data_root,
        workers=options.workers,
    )
    if stage.ahead:
        job.ahead = options.ahead
    if stage.shared:
        group = int(os.environ.get("WORLD_SIZE", 1))  # as torchrun sets it
        job.processes = group if group > 1 else max(1, options.processes)
        job.writes = group == 1 or os.environ.get("RANK") == "0"
    if stage.stored:
        _run_alone(stage, job, lock_file(spec.key, options.checkpoints))
    else:
        _compute(job)


def _compute(job: Job[Any]) -> None:
    importlib.import_module(f"gvbsm.stages.{job.spec.stage}").run(job)


def _run_alone(stage: Stage, job: Job[Any], file: Path) -> None:
    """Run a job. If another process makes the same artifact, wait for it, and run only if it fails."""
    from gvbsm.runtime.checkpoints import install_signal_handlers
    from gvbsm.runtime.tracking import tracker
    from gvbsm.runtime.watching import watched

    tracked = tracker(job)  # first, so that its errors come before the wait and the computation
    with _process_group(job), _locked(job, file) as is_made:
        if is_made:
            return
        if stage.checkpoints(job.spec):  # a job without checkpoints ends at the signal
            install_signal_handlers()
        try:
            with watched(job, progress_file(file.stem, file.parent), tracked, partial(images_per_step, stage.images, job)):
                _compute(job)
        except Interrupted:
            if job.writes:  # one process reports for all, as all stop at the same step
                raise


def _process_group(job: Job[Any]) -> contextlib.AbstractContextManager[None]:
    """Join the processes that train together, if the job has several."""
    if job.processes == 1:
        return contextlib.nullcontext()
    from gvbsm.runtime.distributed import process_group

    return process_group(job.processes)


@contextlib.contextmanager
def _locked(job: Job[Any], file: Path) -> Iterator[bool]:
    """Hold the lock of an artifact; True if another process has made the artifact while this one waited for the lock."""
    import filelock

    from gvbsm.runtime.distributed import ranks

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
