"""Snakemake's terminal for people: a line per finished job, failures with their cause, the accuracies at the end.

The profiles turn it on (`logger: [gvbsm]`). What Snakemake says of itself stays in .snakemake/log, what a job says in its own
log. In dry runs, and where details are asked for (--verbose, --printshellcmds, ...), Snakemake's own text is shown as it is.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import time
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase

from snakemake_logger_plugin_gvbsm.jobs import Job
from snakemake_logger_plugin_gvbsm.lines import (
    failure_line,
    file_error_line,
    final_lines,
    finished_lines,
    interrupted_line,
    is_bookkeeping,
    plan_line,
    restarted_line,
    running_lines,
    unknown_stage_line,
)

_RESTARTED = re.compile(r"Trying to restart job (\d+)\.")
_QUIET_SECONDS = 60.0  # after that long without a line, the jobs that run are shown


class LogHandler(LogHandlerBase):  # type: ignore[misc]
    """Turns Snakemake's events into lines. Snakemake calls it from one thread; another one looks at the clock."""

    def __post_init__(self) -> None:
        if not hasattr(self, "filters"):  # the first versions of the interface leave this to the plugin
            logging.Handler.__init__(self)
        settings = self.common_settings
        asked = ("dryrun", "verbose", "printshellcmds", "debug_dag", "show_failed_logs")
        silent = any(str(kind).rpartition(".")[2].lower() == "all" for kind in settings.quiet or ())
        self._plain = silent or any(getattr(settings, name, False) for name in asked)
        self._stream = sys.stdout if settings.stdout else sys.stderr
        self._jobs: dict[int, Job] = {}  # started
        self._finished: list[Job] = []  # since the last count of jobs
        self._failed: dict[int, Job] = {}
        self._made: list[str] = []  # files outside the store
        self._done, self._total = 0, 0
        self._began, self._last_line = time.monotonic(), time.monotonic()
        self._interrupted = False
        self._over = threading.Event()

    @property
    def writes_to_stream(self) -> bool:
        """It replaces Snakemake's own lines on the terminal."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Snakemake's log file is written all the same."""
        return False

    @property
    def has_filter(self) -> bool:
        """Snakemake's filter is for its own text."""
        return not self._plain

    @property
    def has_formatter(self) -> bool:
        """So is its formatter."""
        return not self._plain

    @property
    def needs_rulegraph(self) -> bool:
        """Not needed."""
        return False

    def emit(self, record: logging.LogRecord) -> None:
        """Show what a person reads of an event."""
        try:
            event = str(getattr(record, "event", None) or "message")
            text = record.getMessage() if event == "error" else ""
            if line := file_error_line(text) or unknown_stage_line(text):
                self._show([line])
            elif self._plain:
                text = self.format(record)
                self._show([] if text in ("", "None") else [text])
            else:
                getattr(self, f"_on_{event}", self._on_message)(record)
        except Exception:  # a line that cannot be made must not end the run
            self.handleError(record)

    def close(self) -> None:
        """Say how the run ended; Snakemake closes its loggers last."""
        if not self._over.is_set():
            self._over.set()
            if self._interrupted:
                self._show([interrupted_line(self._done, self._total, list(self._jobs.values()))])
            elif self._total:
                seconds = time.monotonic() - self._began
                self._show(final_lines(self._done, self._total, len(self._failed), self._made, seconds))
        super().close()

    def _show(self, lines: list[str]) -> None:
        if lines:
            self._last_line = time.monotonic()
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()

    def _on_run_info(self, record: Any) -> None:
        if not self._total:
            self._total = record.stats.get("total", 0)
            self._show([plan_line(record.stats)])
            threading.Thread(target=self._watch, daemon=True).start()

    def _on_job_info(self, record: Any) -> None:
        self._failed.pop(record.jobid, None)  # it is tried again
        self._jobs[record.jobid] = Job(record.rule_name, tuple(record.output), tuple(record.log), record.created)

    def _on_job_finished(self, record: Any) -> None:
        if job := self._jobs.pop(record.job_id, None):
            self._finished.append(job.ended(record.created))

    def _on_progress(self, record: Any) -> None:
        # Snakemake counts jobs that --until leaves out, too; the plan does not.
        self._done, self._total = record.done, self._total or record.total
        for job in self._finished:
            self._show(finished_lines(job, self._done, self._total))
            self._made += [file for file in job.output if not job.is_stored]
        self._finished = []

    def _on_job_error(self, record: Any) -> None:
        if record.jobid in self._failed:  # the first versions of Snakemake 9 report an error twice
            return
        job = Job(record.rule_name, tuple(record.output), tuple(record.log), record.created)
        self._failed[record.jobid] = job
        if not self._interrupted:
            self._jobs.pop(record.jobid, None)
            self._show([failure_line(job)])

    def _on_error(self, record: Any) -> None:
        # What Snakemake raises for a job that has failed repeats the job's command; the job's own line says more.
        if not (self._failed or self._interrupted or "CalledProcessError in file" in record.getMessage()):
            self._on_message(record)

    def _on_message(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        self._interrupted |= " on user request" in text
        restarted = _RESTARTED.match(text)
        job = self._failed.get(int(restarted[1])) if restarted else None
        if job:
            self._show([restarted_line(job)])
        elif record.levelno > logging.DEBUG and not is_bookkeeping(text):
            self._show([text])

    def _ignore(self, _record: logging.LogRecord) -> None:
        """What is bookkeeping for a reader."""

    _on_workflow_started = _on_shellcmd = _on_job_started = _on_group_info = _ignore
    _on_resources_info = _on_debug_dag = _on_rulegraph = _ignore

    def _watch(self) -> None:
        """Show the running jobs whenever nothing was shown for a while."""
        while not self._over.wait(max(1.0, self._last_line + _QUIET_SECONDS - time.monotonic())):
            self.acquire()
            try:
                if time.monotonic() - self._last_line >= _QUIET_SECONDS and self._jobs and not self._interrupted:
                    self._show(running_lines(list(self._jobs.values())))
            finally:
                self.release()
