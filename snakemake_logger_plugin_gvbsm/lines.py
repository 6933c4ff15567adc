"""The lines of the terminal."""

from __future__ import annotations

import re
from pathlib import Path

from gvbsm.config.messages import did_you_mean
from gvbsm.errors import UserError
from gvbsm.format import readable_seconds
from gvbsm.pictures.table import accuracy_lines
from gvbsm.pipeline.registry import STAGES
from gvbsm.store.run import ACCURACIES, REPORT, read_published
from snakemake_logger_plugin_gvbsm.jobs import Job, result_of, without_keys

_TABLES = 5  # runs whose accuracies are shown at the end
_SHOWN = 3  # running jobs that are shown at a time
_PROGRESS = re.compile(r".*: \d+/\d+, ")
_HOW_FAR = re.compile(r"(.*? left)\b|(.*: \d+/\d+)")

# What Snakemake says of itself. Whatever is not listed is shown, so that no warning of another version is lost.
_BOOKKEEPING = re.compile(
    "|".join(
        (
            "None$",
            "Assuming unrestricted shared filesystem usage",
            "Building DAG of jobs",
            "Using shell: ",
            "host: ",
            "Waiting for more resources",
            "Group jobs: inactive",
            "Conda environments: ignored",
            "Singularity containers: ignored",
            "Updating checkpoint dependencies",
            "Processed .* potential jobs",
            "Select jobs to execute",
            "Job rate limit reached",
            "Config file .* by additional config specified via the command line",
            "Complete log",
            "Elapsed time: ",
            "Removing output files of failed job",
            "Trying to restart job ",
            "Shutting down, this might take some time",
            "Will exit after finishing currently running jobs",
            "Exiting because a job execution failed",
            "Terminating processes on user request",
            "Cancelling snakemake on user request",
            "SLURM run ID: ",
            "Job .* has been submitted with SLURM jobid",
        )
    )
)

_OF_A_FILE = re.compile(r"\w+: \[Errno \d+\] (?P<reason>[^:\n]+)(: '(?P<file>.*)')?")


def file_error_line(text: str) -> str | None:
    """What ends Snakemake for a file or folder, instead of the traceback with which it says so; None for other texts."""
    last = _OF_A_FILE.fullmatch(text.rstrip().rpartition("\n")[2].strip())
    if not last or "Traceback (most recent call last)" not in text:
        return None
    file, reason = last["file"] or "a file", last["reason"]
    if "load_configfile" in text:
        return f"gvbsm: --configfile: expected a file with settings, got {file}: {reason}; correct the path"
    return f"gvbsm: {file}: cannot be read or written: {reason}; free space, make it readable and writable, or move it away"


def unknown_stage_line(text: str) -> str | None:
    """What ends Snakemake for a name that it takes for a file, since it is no rule; None for other texts.

    The workflow refuses such a name itself, but not before Snakemake does where it is included in another one.
    """
    missing = re.search(r"No rule to produce ([^\s/]+) \(", text)
    if not missing:
        return None
    hint = did_you_mean(missing[1], STAGES)
    return f"gvbsm: expected a target or a stage, got {missing[1]!r}; {hint}the stages are {', '.join(STAGES)}"


def is_bookkeeping(text: str) -> bool:
    """Whether a message tells a reader nothing."""
    return not text.strip() or _BOOKKEEPING.match(text) is not None


def plan_line(stats: dict[str, int]) -> str:
    """How many jobs a run has, by rule."""
    rules = ", ".join(f"{count} {rule}" for rule, count in stats.items() if rule not in ("total", "all"))
    total = stats.get("total", 0)
    if not rules:
        return "all is made"
    return f"{total} job{'s' * (total > 1)}: {rules}. Their logs: results/logs/. All that run: gvbsm status"


def finished_lines(job: Job, done: int, total: int) -> list[str]:
    """The line of a finished job, and below it what its log says to the user; none for a rule that makes nothing."""
    if not job.output:
        return []
    receipt = job.receipt()
    seconds = receipt["seconds"] if receipt else (job.finish or job.start) - job.start
    what = result_of(receipt) if receipt else job.output[0]
    line = f"[{done:>{len(str(total))}}/{total}] {job.title:<46} {readable_seconds(seconds):>8}  {what}"
    return [line, *(f"    {note}" for note in _notes(job))]


def _notes(job: Job) -> list[str]:
    """Lines of a log that are for the user: what was left out, say."""
    heads = tuple(f"{who}: " for who in ("gvbsm", "tracking", job.stage))
    return [without_keys(line) for line in job.log_lines() if line.startswith(heads) or ": left out, " in line]


def failure_line(job: Job) -> str:
    """Which job failed, its error, its log."""
    lines = job.log_lines()
    errors = [line.removeprefix("gvbsm: ") for line in lines if line.startswith("gvbsm: ")]
    last = without_keys(lines[-1]) if lines else ""
    if errors:
        error = errors[-1]
    elif not last or _PROGRESS.match(last):
        seen = f" (last line: {last})" if last else ""
        error = f"it left no error, as when something else ends it, often for want of memory{seen}"
    else:
        error = last
    log = f"; log: {job.log[0]}" if job.log else ""
    return f"gvbsm: {job.title} failed: {error}{log}"


def restarted_line(job: Job) -> str:
    """That Snakemake tries a failed job again by itself, as the profiles for clusters ask."""
    return f"gvbsm: {job.title} is tried again"


def running_lines(jobs: list[Job]) -> list[str]:
    """How far the jobs are that have run longest."""
    longest = sorted(jobs, key=lambda job: job.start)
    lines = [f"    {_how_far(job)}" for job in longest[:_SHOWN]]
    return [*lines, *([f"    and {len(jobs) - _SHOWN} more"] if len(jobs) > _SHOWN else [])]


def _how_far(job: Job) -> str:
    lines = job.log_lines()
    if not lines:
        return f"{job.title}: has not begun to count"
    match = _HOW_FAR.match(without_keys(lines[-1]))
    return match[0] if match else without_keys(lines[-1])


def interrupted_line(done: int, total: int, running: list[Job]) -> str:
    """What an interrupted run leaves, and how it goes on."""
    saved = [job.title for job in running if any("state saved" in line for line in job.log_lines())]
    state = f", state saved of {', '.join(saved)}" if saved else ""
    return f"gvbsm: interrupted: {done} of {total} jobs are done and kept{state}; run the same command to go on"


def final_lines(done: int, total: int, failed: int, made: list[str], seconds: float) -> list[str]:
    """The accuracies of the runs that were published, their pages, and how the run ended."""
    runs = [Path(file) for file in made if Path(file).name == ACCURACIES]
    pages = [file for file in made if Path(file).name == REPORT]
    lines = [line for run in runs[:_TABLES] for line in ["", *_table(run)]]
    if len(runs) > _TABLES:
        lines += ["", f"and {len(runs) - _TABLES} more runs; see gvbsm compare"]
    lines += ["", *pages] if pages else []
    ended = f"{done} of {total} jobs done in {readable_seconds(seconds)}"
    if failed:
        lines.append(f"gvbsm: {ended}, {failed} failed; correct what the lines above say, and run the same command to go on")
    else:
        lines.append(ended)
    return lines


def _table(file: Path) -> list[str]:
    try:
        return accuracy_lines(read_published(file).accuracies)
    except UserError as error:
        return [f"gvbsm: {error}"]
