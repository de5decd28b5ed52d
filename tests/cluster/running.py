"""Snakemake as a child process that a test can watch, interrupt and kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cgddi.watch import status

ROOT = Path(__file__).resolve().parents[2]
FAST = [
    "--slurm-init-seconds-before-status-checks",
    "3",
    "--latency-wait",
    "15",
    "--seconds-between-status-checks",
    "2",
]
"""Ask about jobs more often than is polite on a cluster that others share."""


def _hear_interrupts() -> None:
    """A shell that starts the tests in the background has them ignore Ctrl-C; the run under test must not inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Run:
    """A Snakemake in a folder.

    Args:
        folder: working directory; `log` in it gets the output.
        arguments: for snakemake.
        python: the interpreter.
        process: further arguments of the process, e.g. whose it is.
    """

    def __init__(self, folder: Path, *arguments: str, python: str = sys.executable, **process: Any):
        self.folder = folder
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SNAKEMAKE_"))}
        with open(folder / "log", "ab") as log:
            self.process = subprocess.Popen(
                [python, "-m", "snakemake", *arguments],
                cwd=folder,
                **{"env": environment, **process},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                preexec_fn=_hear_interrupts,
            )

    @property
    def log(self) -> str:
        """What Snakemake said so far."""
        return (self.folder / "log").read_text(errors="replace")

    @property
    def story(self) -> str:
        """What Snakemake said, and what its jobs said whose logs are left: those that failed."""
        logs = sorted((self.folder / ".snakemake" / "slurm_logs").rglob("*.log"))
        return "\n".join([self.log, *(f"--- {path}\n{path.read_text(errors='replace')}" for path in logs)])

    def finish(self, seconds: float = 600) -> int:
        """Wait for the end; the exit status."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.end()
            raise AssertionError(f"no end within {seconds:g} s:\n{self.log[-3000:]}") from None

    def end(self, number: int = signal.SIGKILL) -> None:
        """Send a signal and wait."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(120)


def slurm_run(folder: Path, *arguments: str, **process: Any) -> Run:
    """Start a run through profiles/slurm."""
    return Run(folder, "--profile", str(ROOT / "profiles" / "slurm"), *FAST, *arguments, **process)


def told(folder: Path, name: str) -> tuple[str, str]:
    """What `cgddi status` says of a job of the small workflow, e.g. `train1`: its state, and why."""
    output = f"out/{name}.txt"
    there = (folder / output).exists()
    job = SimpleNamespace(
        **{"rule": name.rstrip("12"), "wildcards": {"n": name[-1]}, "outputs": (output,), "needs": ()},
        **{"planned": not there, "missing": () if there else (output,), "log": None, "benchmark": None},
    )
    return status.Survey(folder).state(job)


def until_queued(run: Run, name: str) -> str:
    """Wait until `cgddi status` says of a job of a run under way that it is queued; why, as it says."""

    def look() -> str:
        state, why = told(run.folder, name)
        assert run.process.poll() is None, f"{name} was never queued again:\n{run.log}"
        return why if state == "queued" else ""

    return str(until(look, lambda: f"{name} is not queued:\n{run.log}"))


def until(ready: Callable[[], object], complaint: str | Callable[[], str], seconds: float = 300) -> object:
    """Poll until `ready()` is true, and return its value."""
    end = time.monotonic() + seconds
    while not (value := ready()):
        assert time.monotonic() < end, complaint() if callable(complaint) else complaint
        time.sleep(0.2)
    return value
