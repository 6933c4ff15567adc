"""The progress of runs, from the artifacts, locks and progress files on the disk. It only reads.

A job runs while its lock is held. Not every file system shows the locks of other machines: a job there counts as running as
long as it writes its progress file.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gvbsm.config.project import load_config, runs_of
from gvbsm.config.targets import Target
from gvbsm.errors import UserError
from gvbsm.format import readable_seconds
from gvbsm.pipeline.graph import plan_run
from gvbsm.pipeline.stage import Artifact
from gvbsm.store.files import parse_json
from gvbsm.store.locks import CHECKPOINTS, is_held, lock_file
from gvbsm.store.plans import STORE, TARGETS, files_in, read_plan_file
from gvbsm.store.progress import SUFFIX, Record, key_of, progress_file, read_progress
from gvbsm.store.receipts import receipt_path

_QUIET = 30.0  # seconds without progress after which a job's line shows them
_SILENCE = 600.0  # seconds without progress after which a job on another machine counts as dead


@dataclass(frozen=True)
class _Job:
    """A job of a run, or a running job of no run."""

    stage: str
    name: str
    state: str  # "made", "running", "stopped" or "to do"
    record: Record | None = None


class Overview:
    """The runs to report on; planned once, inspected any number of times."""

    def __init__(self, targets: Sequence[str]) -> None:
        """Plan `targets`, or without any those of config.yaml and all that have a plan file.

        Raises:
            UserError: if a target or the configuration is wrong.
        """
        config = load_config()
        runs = [run for target in targets or config.targets for run in runs_of(config, target)]
        self._planned: dict[str, list[Artifact]] = {str(run.accuracies): plan_run(run) for run in runs}
        self._all = not targets
        for run in [] if targets else _planned_before():
            if str(run.accuracies) not in self._planned:
                with contextlib.suppress(UserError):  # its row was removed
                    self._planned[str(run.accuracies)] = plan_run(run)
        self._seconds: dict[str, float] = {}  # by path of the artifact, from its receipt

    def look(self, tables: bool = True) -> tuple[list[str], bool]:
        """The lines of the report, with a table of stages per run if `tables`; and whether all artifacts are made."""
        lines, planned_keys = [], set()
        all_made = True
        for run, planned in self._planned.items():
            jobs = [_inspect(artifact, run) for artifact in planned]
            planned_keys |= {artifact.key for artifact in planned}
            all_made = all_made and all(job.state == "made" for job in jobs)
            lines += self._report(run, planned, jobs, tables)
        others = [file for file in files_in(CHECKPOINTS) if file.name.endswith(SUFFIX) and key_of(file) not in planned_keys]
        other_jobs = [_job(record, is_held(lock_file(key_of(file)))) for file in others if (record := read_progress(file))]
        running = [_job_line(job) for job in other_jobs if job.state == "running"]
        if running and self._all:
            lines += ["other jobs, of no run above", *running]
        return lines, all_made

    def _report(self, run: str, planned: list[Artifact], jobs: list[_Job], table: bool) -> list[str]:
        """The lines of a run: its jobs by state and, unless all are made, by stage, and a line per running or stopped job."""
        states = [job.state for job in jobs]
        made, running = states.count("made"), states.count("running")
        if made == len(jobs):
            return [f"{run}: all {made} jobs made"]
        left = self._left(planned, jobs)
        lines = [f"{run}: {made} of {len(jobs)} jobs made, {running} running, {len(jobs) - made - running} to do{left}"]
        if table:
            lines += _table(jobs)
        return lines + [_job_line(job) for job in jobs if job.state in ("running", "stopped")]

    def _left(self, planned: list[Artifact], jobs: list[_Job]) -> str:
        """The time left, as text: each job takes the mean of the other jobs of its stage, at the current concurrency."""
        durations: dict[str, list[float]] = {}
        left, unknown = 0.0, False
        for artifact, job in zip(planned, jobs, strict=True):
            if job.state == "made" and (seconds := self._duration(artifact)) is not None:
                durations.setdefault(job.stage, []).append(seconds)
            elif job.state == "running" and job.record and job.record.seconds_left is not None:
                left += job.record.seconds_left
                duration = job.record.updated - job.record.started + job.record.seconds_left
                durations.setdefault(job.stage, []).append(duration)
        for job in jobs:
            counted = job.state == "running" and job.record is not None and job.record.seconds_left is not None
            if job.state != "made" and not counted and job.stage != "publish":
                left += statistics.fmean(durations[job.stage]) if job.stage in durations else 0.0
                unknown = unknown or job.stage not in durations
        if not left:
            return ""
        at_once = max(1, sum(job.state == "running" for job in jobs))
        how = f"{at_once} at a time" if at_once > 1 else "one after another"
        return f", {'at least' if unknown else 'about'} {readable_seconds(left / at_once)} left ({how})"

    def _duration(self, artifact: Artifact) -> float | None:
        if artifact.stage != "publish" and artifact.path not in self._seconds:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                receipt = parse_json(receipt_path(STORE / artifact.path).read_text(encoding="utf-8"))
                self._seconds[artifact.path] = float(receipt["seconds"])
        return self._seconds.get(artifact.path)


def status(targets: Sequence[str]) -> str:
    """The progress of the runs of `targets`, or without any of config.yaml's and all planned runs.

    Raises:
        UserError: if a target or the configuration is wrong.
    """
    return "\n".join(Overview(targets).look()[0]) + "\n"


def watch(targets: Sequence[str], seconds: float) -> None:
    """Write `status` to stdout every `seconds` until all is made or Ctrl-C: on a terminal in place, elsewhere without
    tables and only when it changes.

    Raises:
        UserError: if a target or the configuration is wrong.
    """
    overview = Overview(targets)
    before: list[str] = []
    is_terminal = sys.stdout.isatty()
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            lines, all_made = overview.look(tables=is_terminal)
            if is_terminal:
                width, height = shutil.get_terminal_size()
                more = [f"... and {len(lines) - height + 2} lines more"] if len(lines) >= height else []
                lines = [line[: width - 1] for line in [*lines[: height - 1 - len(more)], *more]]
            if lines != before:
                up = f"\x1b[{len(before)}F\x1b[J" if is_terminal and before else ""
                sys.stdout.write(up + "\n".join(lines) + "\n")
                sys.stdout.flush()
            if all_made:
                return
            before = lines
            time.sleep(seconds)


def _planned_before() -> list[Target]:
    """The targets of existing plan files."""
    targets = set()
    for folder in files_in(TARGETS):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            _, raw = read_plan_file(folder / "plan.json")
            targets.add(Target(raw["dataset"], raw["ipc"], raw.get("recipe")))
    return sorted(targets, key=lambda target: str(target.accuracies))


def _inspect(artifact: Artifact, run: str) -> _Job:
    """The present state of a job of a run."""
    # Read the lock before the artifact: a job that ends in between then counts as made.
    record, held = read_progress(progress_file(artifact.key)), is_held(lock_file(artifact.key))
    if _is_published(artifact, run) if artifact.stage == "publish" else _is_made(artifact):
        return _Job(artifact.stage, artifact.name, "made")
    if record:
        return _job(record, held)
    return _Job(artifact.stage, artifact.name, "running" if held else "to do")


def _job(record: Record, held: bool) -> _Job:
    """The state of an unfinished job, from its progress file."""
    elsewhere = record.host != socket.gethostname() and not record.ended
    patience = max(_SILENCE, 5 / record.rate if record.rate else 0)
    is_alive = elsewhere and time.time() - record.updated < patience
    return _Job(record.stage, record.name, "running" if held or is_alive else "stopped", record)


def _is_made(artifact: Artifact) -> bool:
    file = STORE / artifact.path
    return file.is_file() and receipt_path(file).is_file()


def _is_published(artifact: Artifact, run: str) -> bool:
    try:
        return bool(parse_json(Path(run).read_text(encoding="utf-8"))["key"] == artifact.key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _table(jobs: list[_Job]) -> list[str]:
    """Jobs by stage and state."""
    lines = [f"  {'stage':<11}{'jobs':>6}{'made':>6}{'running':>9}{'to do':>7}"]
    for stage in dict.fromkeys(job.stage for job in jobs):
        states = [job.state for job in jobs if job.stage == stage]
        made, running = states.count("made"), states.count("running")
        lines.append(f"  {stage:<11}{len(states):>6}{made:>6}{running:>9}{len(states) - made - running:>7}")
    return lines


def _job_line(job: _Job) -> str:
    """The line of a job that is running or was stopped."""
    start, record = f"  {job.stage} {job.name}: ", job.record
    if record is None:
        return f"{start}running, without reported progress"
    place = record.host + (f" (SLURM job {record.slurm_job})" if record.slurm_job else f" (process {record.pid})")
    counted = [f"{record.done}/{record.total}"] if record.total is not None else []
    silence = max(time.time() - record.updated, 0)
    if job.state == "stopped":
        end = f"{record.ended or 'killed'} {readable_seconds(silence)} ago on {place}; ask for the run again to go on"
        return start + ", ".join([*counted, end])
    parts = counted or ["has not counted anything yet"]
    if record.rate is not None:
        parts.append(f"{record.rate:.3g}/s")
    if record.images_per_second is not None:
        parts.append(f"{record.images_per_second:.3g} images/s")
    if record.seconds_left is not None:
        parts.append(f"{readable_seconds(record.seconds_left)} left")
    parts += [f"{name} {'not finite' if value is None else f'{value:.4g}'}" for name, value in record.values.items()]
    last_report = f", last heard of {readable_seconds(silence)} ago" if silence > _QUIET else ""
    return start + ", ".join([*parts, f"on {place}"]) + last_report
