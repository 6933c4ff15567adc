"""`gvbsm <stage>`: makes one artifact from its spec, alone among the processes that would make the same."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from gvbsm.cli.arguments import count
from gvbsm.errors import Interrupted, UserError, unwritable
from gvbsm.pipeline.registry import STAGES
from gvbsm.pipeline.scale import images_per_step
from gvbsm.pipeline.stage import Stage
from gvbsm.store.job import Job
from gvbsm.store.locks import CHECKPOINTS, lock_file
from gvbsm.store.plans import STORE
from gvbsm.store.progress import progress_file


def add_stage_arguments(command: argparse.ArgumentParser, stage: Stage) -> None:
    """What every stage takes, and what some do."""
    environment = os.environ
    command.add_argument("--spec", help="required: plan file or JSON text")
    command.add_argument("--out", type=Path, help="required: artifact to write")
    command.add_argument("--store", type=Path, default=STORE, help="folder of the inputs (default: %(default)s)")
    device = "auto, cpu, cuda[:n] or mps (default: GVBSM_DEVICE, or auto)"
    command.add_argument("--device", default=environment.get("GVBSM_DEVICE", "auto"), help=device)
    root = Path(environment.get("GVBSM_DATA_ROOT", "data"))
    command.add_argument("--data-root", type=Path, default=root, help="folder of data sets (default: GVBSM_DATA_ROOT, or data)")
    if stage.shared:
        together = "processes that train together, each on a GPU (default: 1)"
        command.add_argument("--processes", type=count, default=1, metavar="N", help=together)
    if stage.ahead:
        about = "also do the work of planned jobs that wait and read the same images: it goes into their checkpoints"
        command.add_argument("--ahead", action="store_true", help=about)
    command.add_argument(
        "--workers",
        type=_workers,
        default=environment.get("GVBSM_WORKERS", _usable_cores()),
        help="processes that decode image files (default: GVBSM_WORKERS, or the usable cores, at most 16)",
    )
    command.add_argument("--checkpoints", type=Path, default=CHECKPOINTS, help="folder of checkpoints (default: %(default)s)")
    seconds = "time between checkpoints (default: %(default)s)"
    command.add_argument("--checkpoint-seconds", type=float, default=300.0, help=seconds)


def _workers(text: str) -> int:
    """A number of processes, from the argument or the variable."""
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}; correct it or GVBSM_WORKERS")
    return int(text)


def _usable_cores() -> int:
    """Cores this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, 16)


def run_stage(options: argparse.Namespace) -> None:
    """Run the stage that the command names."""
    from gvbsm.pipeline.specs import read_spec

    stage = STAGES[options.command]
    if options.spec is None:
        raise UserError(f"{stage.name}: --spec: expected a plan file or JSON text, got none; give one")
    spec = read_spec(stage, options.spec)
    if options.out is None:
        raise UserError(f"{stage.name}: --out: expected the file to write, got none; give one")
    if not options.checkpoint_seconds >= 0:
        raise UserError(f"{stage.name}: --checkpoint-seconds: expected at least 0, got {options.checkpoint_seconds}")
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

    from gvbsm.method.ranks import ranks

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
            raise unwritable(file, error) from None
    try:
        yield ranks().any(waited and job.is_made())[0]
    finally:
        lock.release()
