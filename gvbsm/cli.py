"""`gvbsm <stage>` runs one stage; the other commands look after stages. Nothing heavy is imported before it is needed."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gvbsm import keys
from gvbsm.arguments import SHARED, parser
from gvbsm.artifacts import Job
from gvbsm.errors import Interrupted, UserError
from gvbsm.locks import lock_file
from gvbsm.progressfiles import progress_file


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0, 1 if verify found damage, 2 after one line for what the user got wrong, or 128 + n after signal n."""
    try:
        options = parser().parse_args(arguments)
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
    elif options.command == "status":
        from gvbsm.status import status, watch

        if options.watch is None:
            sys.stdout.write(status(options.targets))
        else:
            watch(options.targets, options.watch)
    elif options.command == "gc":
        from gvbsm.gc import gc

        sys.stdout.write(gc(options.delete))
    elif options.command == "compare":
        from gvbsm.compare import compare

        sys.stdout.write(compare(options.runs, options.csv, options.picture))
    elif options.command == "report":
        from gvbsm.report.page import report

        sys.stdout.write(report(options.run, options.out))
    elif options.command == "export":
        from gvbsm.export import export

        sys.stdout.write(export(options.run, options.to, options.out, options.licence))
    elif options.command == "import-fkd":
        from gvbsm.import_fkd import import_fkd

        sys.stdout.write(import_fkd(options.labels, options.images, options.out, options.seed))
    elif options.command == "lease":
        from gvbsm.runtime.lease import lease

        lease(options.count, options.run)
    else:
        _run_stage(options)
    return 0


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
    if stage in SHARED:
        group = int(os.environ.get("WORLD_SIZE", 1))  # as torchrun sets it
        job.processes = group if group > 1 else max(1, options.processes)
        job.writes = group == 1 or os.environ.get("RANK") == "0"
    if stage not in keys.STORED:
        importlib.import_module(f"gvbsm.stages.{stage}").run(job)
    else:
        _run_alone(job, lock_file(keys.key(spec), options.checkpoints))


def _run_alone(job: Job, file: Path) -> None:
    """Run a job unless another process makes the same artifact, whose end is waited for."""
    from gvbsm.runtime.checkpoints import install_signal_handlers
    from gvbsm.runtime.tracking import tracker
    from gvbsm.runtime.watching import watched

    tracked = tracker(job)  # what is wrong with it is said before anything is waited for or computed
    with _together(job), _locked(job, file) as is_made:
        if is_made:
            return
        # Without a state to save, a job simply ends; so does the test of a teacher that is not trained.
        if not (job.spec["stage"] in ("prepare", "adopt", "features") or job.spec.get("weights")):
            install_signal_handlers()
        try:
            with watched(job, progress_file(file.stem, file.parent), tracked):
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
