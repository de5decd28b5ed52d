"""What a person sees while `snakemake` runs: one line of progress, each warning once, and at the end what the failed jobs said.

Snakemake finds it by its name, and profiles/default switches it on (`logger: [cgddi]`). Dry-runs, `--verbose`, `--printshellcmds`
and `--debug-dag` show all that Snakemake says, and so does the file it keeps in .snakemake/log. On a terminal the line is drawn
over; where there is none, as in a CI log, a new one comes every minute. It imports nothing of cgddi: which clone's code a run
takes, its Snakefile decides later.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TextIO

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

EVERY = 60.0
"""Seconds between two lines where there is no terminal."""
PATIENCE = 3.0
"""Seconds in which a job that failed may be said to start again before it is called failed."""
SHOWN = 10
"""Failed jobs whose messages are shown at the end."""
TAIL = 65536
"""Bytes of a log's end that are looked through."""
KEPT = re.compile(
    r"^(Nothing to be done|Unlocking|Terminating|Shutting down|Will exit|Cancel|Removed|Touching|Congratulations)"
)
"""What Snakemake tells in passing and a person should see."""
DROPPED = re.compile(
    r"^(Exiting because a job execution failed|(WorkflowError:\s*)?At least one job did not complete|"
    r"RuleException:\s*CalledProcessError)"
)
"""What it says when a job fails, beside what the job says."""
BAR = re.compile(r"\d+%\|")
"""A progress bar."""
MISTAKE = re.compile(r"^(?:[\w.]+\.)?\w*(?:Error|Exception|Interrupt|Killed|Exit)\b.*")
"""Last line of a traceback."""


def own_message(path: str) -> str | None:
    """What a job said last of why it failed, in a few lines: its `cgddi STAGE: ...`, else a traceback's last line, else its last.

    Returns:
        None where it said nothing.
    """
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return None
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", text) if line.strip() and not BAR.search(line)]
    for number in range(len(lines) - 1, -1, -1):
        if re.match(r"cgddi [\w-]+: ", lines[number]):
            more = [line for line in lines[number + 1 : number + 4] if line.startswith("  - ")]
            return "\n".join([lines[number].split(": ", 1)[1], *more])
    return next((line for line in reversed(lines) if MISTAKE.match(line)), lines[-1] if lines else None)


def duration(seconds: float) -> str:
    """A time as a person says it, in its two largest units."""
    seconds = round(seconds)
    for size, unit, below, lower in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // below} {lower}"
    return f"{round(seconds / 60)} min" if seconds >= 90 else f"{seconds} s"


@dataclass
class JobSeen:
    """A job under way: its rule, its message, its logs, and when it began (or, on a cluster, was submitted)."""

    rule: str
    name: str
    logs: list[str]
    began: float
    error: str | None = None
    failed: float | None = None


@dataclass
class Run:
    """What is known of the jobs of a run.

    Args:
        total: jobs of the plan, by rule.
    """

    total: Counter[str]
    began: float
    done: int = 0
    expected: dict[str, float] = field(default_factory=dict)
    """Rule -> seconds that a job of it is thought to take, until one has finished."""
    jobs: dict[int, JobSeen] = field(default_factory=dict)
    took: dict[str, list[float]] = field(default_factory=dict)
    finished: Counter[str] = field(default_factory=Counter)

    @property
    def running(self) -> list[JobSeen]:
        return [job for job in self.jobs.values() if job.failed is None]

    @property
    def failed(self) -> list[JobSeen]:
        return [job for job in self.jobs.values() if job.failed is not None]

    def left(self, now: float) -> tuple[float, bool]:
        """Seconds that the rest will take: what its jobs take, by those that have finished, over as many at a time as till now.

        Returns:
            The seconds, and whether that is all: False where no job of some rule has finished and nobody knows what one takes.
        """
        seconds = self.expected | {rule: sum(took) / len(took) for rule, took in self.took.items()}
        waiting = self.total - self.finished
        waiting.subtract(job.rule for job in self.running)
        known = all(rule in seconds for rule in [*+waiting, *(job.rule for job in self.running)])
        rest = sum(count * seconds.get(rule, 0.0) for rule, count in (+waiting).items())
        spent = sum(map(sum, self.took.values()))
        for job in self.running:
            spent += now - job.began
            rest += max(0.0, seconds.get(job.rule, 0.0) - (now - job.began))
        return rest / max(spent / max(now - self.began, 1.0), 1.0), known

    def line(self, now: float) -> str:
        """Done of total, what is under way, and how long it will take."""
        under_way = Counter(job.rule for job in self.running)
        parts = [f"{self.done}/{sum(self.total.values())} done"]
        if failed := len(self.failed):
            parts.append(f"{failed} failed")
        if under_way:
            parts.append("running " + ", ".join(f"{count} {rule}" for rule, count in under_way.most_common()))
        left, known = self.left(now)
        if self.done < sum(self.total.values()) and left >= 1:
            parts.append(f"{'about' if known else 'at least'} {duration(left)} left")
        return " | ".join(parts)


class LogHandler(LogHandlerBase):
    """Snakemake's events in few lines."""

    writes_to_stream, writes_to_file, has_filter, has_formatter, needs_rulegraph = True, False, True, True, False

    def __post_init__(self) -> None:
        asked = self.common_settings
        self.stream: TextIO = sys.stdout if asked.stdout else sys.stderr
        self.everything = _snakemakes_own(asked, self.stream) if _is_wordy(asked) else None
        self.silent = bool(asked.quiet)
        self.terminal = self.stream.isatty() and not self.silent
        self.colour = self.terminal and not asked.nocolor and "NO_COLOR" not in os.environ
        self.said: set[str] = set()
        self.run: Run | None = None
        self.expected: dict[str, float] = {}
        self.drawn = False
        self.next_line = 0.0
        self.ended = threading.Event()

    def expect(self, seconds: dict[str, float]) -> None:
        """Take over how long a job of each rule is thought to take (rule -> seconds)."""
        self.expected = dict(seconds)
        if self.run:
            self.run.expected = self.expected

    # ---- events

    def emit(self, record: logging.LogRecord) -> None:
        if self.everything is not None:
            if self.everything.filter(record):
                self.everything.emit(record)
            return
        try:
            self._take(record, getattr(record, "event", None))
        except Exception:  # noqa: BLE001 (a display must not end a run)
            self.handleError(record)

    def _take(self, record: logging.LogRecord, event: LogEvent | None) -> None:
        now = time.monotonic()
        if event == LogEvent.RUN_INFO:
            self._begin(Counter({k: int(v) for k, v in record.stats.items() if k != "total"}), now)
        elif event == LogEvent.JOB_INFO and self.run:
            name = record.rule_msg or record.rule_name
            self.run.jobs[record.jobid] = JobSeen(record.rule_name, name, [str(path) for path in record.log], now)
        elif event == LogEvent.JOB_FINISHED and self.run:
            if job := self.run.jobs.pop(record.job_id, None):
                self.run.took.setdefault(job.rule, []).append(now - job.began)
                self.run.finished[job.rule] += 1
        elif event == LogEvent.PROGRESS and self.run:
            self.run.done = record.done
        elif event in (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR) and self.run:
            for info in getattr(record, "job_error_info", [record.__dict__]):
                self._failed(info, now)
        elif event == LogEvent.ERROR or (event is None and record.levelno >= logging.ERROR):
            if not (self.run and DROPPED.match(record.getMessage())):
                self._say(record.getMessage(), 31)
        elif event is None and record.levelno >= logging.WARNING:
            self._say_once(record.getMessage())
        elif event is None and (again := re.match(r"Trying to restart job (\d+)", record.getMessage() or "")):
            self._again(int(again[1]))
        elif event is None and KEPT.match(record.getMessage() or ""):
            self._say(record.getMessage())
        self._draw(now)

    def _begin(self, total: Counter[str], now: float) -> None:
        self.run = Run(total, now, expected=self.expected)
        if not self.silent:
            threading.Thread(target=self._tick, daemon=True).start()

    def _failed(self, info: dict, now: float) -> None:
        logs = [str(path) for path in info.get("log") or []]
        job = self.run.jobs.setdefault(
            info["jobid"], JobSeen(info["rule_name"], info.get("rule_msg") or info["rule_name"], logs, now)
        )
        job.logs, job.failed = logs or job.logs, now
        told = (own_message(path) for path in job.logs if not path.endswith(".jsonl"))  # those are figures
        why = next(filter(None, told), None)
        job.error = why or info.get("rule_msg") or "it said nothing; its node or the system may have ended it"

    def _again(self, jobid: int) -> None:
        if (job := self.run and self.run.jobs.get(jobid)) and job.failed is not None:
            self._say_once(f"Trying to restart: {job.name}, after: {job.error}")
            job.failed = None

    # ---- what is written

    def _say_once(self, text: str) -> None:
        if text.strip() and text not in self.said:
            self.said.add(text)
            self._say(text, 33)

    def _say(self, text: str, colour: int | None = None) -> None:
        """Write a text above the progress line."""
        text = text.strip("\n")
        if self.colour and colour:
            text = f"\x1b[{colour}m{text}\x1b[0m"
        self._write(f"{text}\n")

    def _write(self, text: str) -> None:
        if self.drawn:
            text, self.drawn = f"\r\x1b[2K{text}", False
        self.stream.write(text)
        self.stream.flush()

    def _draw(self, now: float) -> None:
        if self.run is None or self.silent or self.ended.is_set():
            return
        if self.terminal:
            width = shutil.get_terminal_size().columns - 1
            self.drawn = True
            self._write(self.run.line(now)[:width])
            self.drawn = True
        elif now >= self.next_line:
            self.next_line = now + EVERY
            self._write(f"[{time.strftime('%H:%M:%S')}] {self.run.line(now)}\n")

    def _tick(self) -> None:
        while not self.ended.wait(1.0):
            with self.lock:
                now = time.monotonic()
                for job in self.run.failed:
                    if job.error is not None and now - job.failed > PATIENCE:
                        self._say_once(f"failed: {job.name}: {job.error}")
                self._draw(now)

    def close(self) -> None:
        if not self.ended.is_set():
            self.ended.set()
            with self.lock:
                if self.run:
                    self._end(self.run)
        super().close()

    def _end(self, run: Run) -> None:
        took, total = duration(time.monotonic() - run.began), sum(run.total.values())
        if self.drawn:
            self._write("")
        if not run.failed:
            if not self.silent:
                self._say(f"{'' if run.done == total else 'Stopped: '}{run.done} of {total} done in {took}.")
            return
        self._say(f"{len(run.failed)} job(s) failed, {run.done} of {total} done in {took}. What they said:", 31)
        for job in run.failed[:SHOWN]:
            self._say(f"  {job.name}: {job.error}" + (f"\n    log: {job.logs[0]}" if job.logs else ""))
        if len(run.failed) > SHOWN:
            self._say(f"  ... and {len(run.failed) - SHOWN} more: `cgddi status`")


def _is_wordy(asked) -> bool:
    """Whether Snakemake was asked for more than a run's progress."""
    return bool(asked.dryrun or asked.verbose or asked.printshellcmds or asked.debug_dag)


def _snakemakes_own(asked, stream: TextIO) -> logging.Handler:
    """The handler that Snakemake would have without this one."""
    from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter

    handler = ColorizingTextHandler(nocolor=asked.nocolor, stream=stream)
    handler.addFilter(DefaultFilter(asked.quiet, asked.debug_dag, asked.verbose, asked.dryrun, asked.printshellcmds))
    handler.setFormatter(DefaultFormatter(asked.quiet, asked.show_failed_logs))
    return handler
