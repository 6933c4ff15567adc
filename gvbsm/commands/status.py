"""How far runs are, from what lies on the disk: artifacts, locks, and what running jobs say of themselves. It only reads.

A job whose lock is held runs. Locks of other machines are not seen on every file system: a job there is taken to run as long
as its progress file is written.
"""

from __future__ import annotations

import contextlib
import json
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
from gvbsm.store.locks import CHECKPOINTS, is_held, lock_file
from gvbsm.store.plans import STORE, TARGETS, files_in, read_plan_file
from gvbsm.store.progress import SUFFIX, Record, key_of, progress_file, read_progress
from gvbsm.store.receipts import receipt_path

_QUIET = 30.0  # seconds after which a line says when a job was last heard of
_SILENCE = 600.0  # seconds after which a job of another machine, whose lock is not seen, is taken for dead


@dataclass(frozen=True)
class _Job:
    """A job of a run, or one that runs beside."""

    stage: str
    name: str
    state: str  # "made", "running", "stopped" or "to do"
    record: Record | None = None


class Overview:
    """The runs that are looked at; planned once, looked at as often as is wanted."""

    def __init__(self, targets: Sequence[str]) -> None:
        """Plan `targets`, or else those of config.yaml and all that have a plan.

        Raises:
            UserError: if a target or the configuration is wrong.
        """
        config = load_config()
        runs = [run for target in targets or config.targets for run in runs_of(config, target)]
        self._planned: dict[str, list[Artifact]] = {str(run.accuracies): plan_run(run) for run in runs}
        self._all = not targets
        for run in [] if targets else _planned_before():
            if str(run.accuracies) not in self._planned:
                with contextlib.suppress(UserError):  # of a row that is no more
                    self._planned[str(run.accuracies)] = plan_run(run)
        self._seconds: dict[str, float] = {}  # that artifacts took, from their receipts

    def look(self, tables: bool = True) -> tuple[list[str], bool]:
        """Lines that say how things stand now, with a table of stages for every run if asked to; and whether all is made."""
        lines, known = [], set()
        all_made = True
        for run, planned in self._planned.items():
            jobs = [_look(artifact, run) for artifact in planned]
            known |= {artifact.key for artifact in planned}
            all_made = all_made and all(job.state == "made" for job in jobs)
            lines += self._report(run, planned, jobs, tables)
        others = [file for file in files_in(CHECKPOINTS) if file.name.endswith(SUFFIX) and key_of(file) not in known]
        found = [_job(record, is_held(lock_file(key_of(file)))) for file in others if (record := read_progress(file))]
        running = [_job_line(job) for job in found if job.state == "running"]
        if running and self._all:
            lines += ["other jobs, of no run above", *running]
        return lines, all_made

    def _report(self, run: str, planned: list[Artifact], jobs: list[_Job], table: bool) -> list[str]:
        """The lines of a run: its jobs by state; if any is left, by stage too, and one for each that runs or was stopped."""
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
        """What is left, as text: a job takes as long as others of its stage have, at the current concurrency."""
        took: dict[str, list[float]] = {}
        left, unknown = 0.0, False
        for artifact, job in zip(planned, jobs, strict=True):
            if job.state == "made" and (seconds := self._took(artifact)) is not None:
                took.setdefault(job.stage, []).append(seconds)
            elif job.state == "running" and job.record and job.record.seconds_left is not None:
                left += job.record.seconds_left
                whole = job.record.updated - job.record.started + job.record.seconds_left
                took.setdefault(job.stage, []).append(whole)
        for job in jobs:
            counted = job.state == "running" and job.record is not None and job.record.seconds_left is not None
            if job.state != "made" and not counted and job.stage != "publish":
                left += statistics.fmean(took[job.stage]) if job.stage in took else 0.0
                unknown = unknown or job.stage not in took
        if not left:
            return ""
        at_once = max(1, sum(job.state == "running" for job in jobs))
        how = f"{at_once} at a time" if at_once > 1 else "one after another"
        return f", {'at least' if unknown else 'about'} {readable_seconds(left / at_once)} left ({how})"

    def _took(self, artifact: Artifact) -> float | None:
        if artifact.stage != "publish" and artifact.path not in self._seconds:
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                receipt = json.loads(receipt_path(STORE / artifact.path).read_text(encoding="utf-8"))
                self._seconds[artifact.path] = float(receipt["seconds"])
        return self._seconds.get(artifact.path)


def status(targets: Sequence[str]) -> str:
    """How far the runs of `targets` are, or of config.yaml and of all that have been planned.

    Raises:
        UserError: if a target or the configuration is wrong.
    """
    return "\n".join(Overview(targets).look()[0]) + "\n"


def watch(targets: Sequence[str], seconds: float) -> None:
    """Say that on stdout every so many seconds until all is made or Ctrl-C: on a terminal in place, elsewhere without
    tables, and only what is new.

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
    """The targets of the plans that are there."""
    targets = set()
    for folder in files_in(TARGETS):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            _, raw = read_plan_file(folder / "plan.json")
            targets.add(Target(raw["dataset"], raw["ipc"], raw.get("recipe")))
    return sorted(targets, key=lambda target: str(target.accuracies))


def _look(artifact: Artifact, run: str) -> _Job:
    """A job of a run as it stands."""
    # In this order: one that ends meanwhile is made, and not neither.
    record, held = read_progress(progress_file(artifact.key)), is_held(lock_file(artifact.key))
    if _is_published(artifact, run) if artifact.stage == "publish" else _is_made(artifact):
        return _Job(artifact.stage, artifact.name, "made")
    if record:
        return _job(record, held)
    return _Job(artifact.stage, artifact.name, "running" if held else "to do")


def _job(record: Record, held: bool) -> _Job:
    """A job that is not made, by what it says of itself."""
    elsewhere = record.host != socket.gethostname() and not record.ended
    patience = max(_SILENCE, 5 / record.rate if record.rate else 0)
    heard = elsewhere and time.time() - record.updated < patience
    return _Job(record.stage, record.name, "running" if held or heard else "stopped", record)


def _is_made(artifact: Artifact) -> bool:
    file = STORE / artifact.path
    return file.is_file() and receipt_path(file).is_file()


def _is_published(artifact: Artifact, run: str) -> bool:
    try:
        return bool(json.loads(Path(run).read_text(encoding="utf-8"))["key"] == artifact.key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _table(jobs: list[_Job]) -> list[str]:
    """Jobs by stage and state."""
    lines = [f"  {'stage':<11}{'jobs':>6}{'made':>6}{'running':>9}{'to do':>7}"]
    for stage in dict.fromkeys(job.stage for job in jobs):
        here = [job.state for job in jobs if job.stage == stage]
        made, running = here.count("made"), here.count("running")
        lines.append(f"  {stage:<11}{len(here):>6}{made:>6}{running:>9}{len(here) - made - running:>7}")
    return lines


def _job_line(job: _Job) -> str:
    """What is known of a job that runs, or was stopped."""
    start, record = f"  {job.stage} {job.name}: ", job.record
    if record is None:
        return f"{start}running, and says nothing of itself"
    place = record.host + (f" (SLURM job {record.slurm_job})" if record.slurm_job else f" (process {record.pid})")
    counted = [f"{record.done}/{record.total}"] if record.total is not None else []
    silence = max(time.time() - record.updated, 0)
    if job.state == "stopped":
        how = f"{record.ended or 'killed'} {readable_seconds(silence)} ago on {place}; ask for the run again to go on"
        return start + ", ".join([*counted, how])
    said = counted or ["has not counted anything yet"]
    if record.rate is not None:
        said.append(f"{record.rate:.3g}/s")
    if record.images_per_second is not None:
        said.append(f"{record.images_per_second:.3g} images/s")
    if record.seconds_left is not None:
        said.append(f"{readable_seconds(record.seconds_left)} left")
    said += [f"{name} {'not finite' if value is None else f'{value:.4g}'}" for name, value in record.values.items()]
    heard = f", last heard of {readable_seconds(silence)} ago" if silence > _QUIET else ""
    return start + ", ".join([*said, f"on {place}"]) + heard
