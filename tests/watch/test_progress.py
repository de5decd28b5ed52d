"""What is seen while a run goes: few lines, the failed job's own words last; on a terminal, in a CI log, and in words when
asked."""

from __future__ import annotations

import io
import logging
import os
import pty
import re
import subprocess
import sys
from collections import Counter
from types import SimpleNamespace

import pytest
from snakemake import cli
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_logger_plugin_cgddi import JobSeen, LogHandler, Run, duration, own_message

from tests.workflow.paper_scale import ROOT

SNAKEFILE = r"""
rule all:
    input: expand("out/{k}", k=range(5)), "adapter"
rule work:
    output: "out/{k}"
    log: "logs/{k}.log"
    message: "work on {wildcards.k}"
    shell: "echo half >&2; touch {output}"
rule lora:
    output: "adapter"
    log: "logs/lora.log"
    message: "adapter of nevus (main)"
    shell: "printf 'lora:  10%%|x|\rcgddi lora: masks.tar: missing. Run it again.\n' 2>{log} >&2; exit 2"
"""


def run(folder, *words, **more):
    (folder / "Snakefile").write_text(SNAKEFILE)
    command = [sys.executable, "-m", "snakemake", "--logger", "cgddi", "--cores", "2", "--keep-going", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, **more)


def test_a_failed_jobs_own_words_come_last(tmp_path):
    done = run(tmp_path, "--retries", "1")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert done.returncode
    assert lines[-3:] == [
        lines[-3],
        "  adapter of nevus (main): masks.tar: missing. Run it again.",
        "    log: logs/lora.log",
    ]
    assert re.fullmatch(r"1 job\(s\) failed, 5 of 7 done in \d+ s. What they said:", lines[-3])
    assert "Trying to restart: adapter of nevus (main), after: masks.tar: missing. Run it again." in lines
    assert "RuleException" not in done.stderr and "Traceback" not in done.stderr
    assert len(lines) < 12, "no line for each job"
    (kept,) = (tmp_path / ".snakemake/log").glob("*.log")
    assert "CalledProcessError" in kept.read_text(), "Snakemake's own log has all of it"


def test_a_run_without_failures_ends_with_its_time_and_a_dry_run_shows_the_plan(tmp_path):
    done = run(tmp_path, "out/1", "out/2")
    assert re.search(r"^2 of 2 done in \d+ s\.$", done.stderr, re.M) and "work on 1" not in done.stderr
    assert re.search(r"^\[\d\d:\d\d:\d\d\] \d/2 done", done.stderr, re.M)
    again = run(tmp_path, "out/1")
    assert "Nothing to be done" in again.stderr
    plan = run(tmp_path, "-n")
    assert re.search(r"^Job \d+: work on 3$", plan.stdout, re.M) and re.search(r"^total +5$", plan.stdout, re.M)


def test_verbose_shows_what_snakemake_says(tmp_path):
    said = run(tmp_path, "--verbose", "out/1").stderr
    assert re.search(r"^Job 0: work on 1$", said, re.M) and "1 of 1 steps (100%) done" in said


def test_on_a_terminal_one_line_is_drawn_over(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "snakemake", "--logger", "cgddi", "--cores", "2", "out/1", "out/2"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=theirs, stderr=theirs, env={**os.environ, "COLUMNS": "50"})
    os.close(theirs)
    text = b""
    try:
        while part := os.read(ours, 65536):
            text += part
    except OSError:  # the other side has ended
        pass
    assert process.wait() == 0
    shown = text.decode().replace("\r\n", "\n")
    drawn = re.findall(r"\r\x1b\[2K([^\n\r]*)", shown)
    assert any(line.startswith("1/2 done") for line in drawn) and max(map(len, drawn)) < 50
    assert not re.search(r"^\[", shown, re.M) and re.search(r"2 of 2 done in \d+ s\.\n$", shown)


@pytest.mark.parametrize("profile", ["local-cpu", "local-gpu", "slurm", "allocations"])
def test_every_profile_has_it(profile, monkeypatch):
    monkeypatch.chdir(ROOT)
    words = ["--profile", f"profiles/{profile}", "--snakefile", "Snakefile"]
    assert cli.parse_args(words)[1].logger == ["cgddi"]


def test_without_the_package_the_profile_does_without_it(tmp_path):
    """A Python that has Snakemake and not our package, as where a workflow was deployed."""
    code = """
import sys
sys.path[:] = [path for path in sys.path if not path.rstrip("/").endswith("/workflow")]
from snakemake import cli
print(cli.parse_args(["--snakefile", "Snakefile", "--cores", "1"])[1].logger)
"""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == "[]", done.stderr


# ---- parts


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("a\ncgddi lora: x.tar: missing. Run again.\n", "x.tar: missing. Run again."),
        ("cgddi check: 2 problem(s) in the input:\n  - a\n  - b\n", "2 problem(s) in the input:\n  - a\n  - b"),
        ("Traceback (most recent call last):\n  File x\ntorch.OutOfMemoryError: CUDA out of memory.\n", None),
        ("step 1\nslurmstepd: error: *** JOB 7 ON n1 CANCELLED DUE TO TIME LIMIT ***\n", None),
        ("loss 1\rtrain: 99%|###| 99/100\n", "loss 1"),
        ("\n", None),
    ],
)
def test_a_log_gives_its_last_words(log, message, tmp_path):
    (tmp_path / "log").write_text(log)
    wanted = message or (log.strip().splitlines() or [None])[-1]
    assert own_message(str(tmp_path / "log")) == wanted
    assert own_message(str(tmp_path / "none")) is None


def test_the_time_left_is_that_of_the_jobs_left():
    """Four of ten jobs of 30 s done, two at a time and both half way: 2 x 15 s and 4 x 30 s of work over two at a time."""
    run = Run(Counter(work=10, all=1), 0.0, done=4, expected={"all": 0.0}, took={"work": [30.0] * 4})
    run.finished["work"] = 4
    run.jobs = {k: JobSeen("work", "", [], 60.0) for k in (1, 2)}
    assert run.left(75.0) == (75.0, True)
    assert run.line(75.0) == "4/11 done | running 2 work | about 75 s left"
    run.total["lora"] = 1
    assert run.left(75.0) == (75.0, False) and run.line(75.0).endswith("at least 75 s left")
    run.expected["lora"] = 30.0
    assert run.left(75.0) == (90.0, True)
    assert Run(Counter(work=2), 0.0).line(5.0) == "0/2 done", "nothing is known yet"


def test_times_are_said_in_two_units():
    assert [duration(s) for s in (5, 89, 90, 3599, 3600, 86400 * 2 + 3600 * 5)] == [
        *("5 s", "89 s", "2 min", "60 min", "1 h 0 min", "2 d 5 h")
    ]


def handler(**asked) -> LogHandler:
    common = {"stdout": False, "dryrun": False, "verbose": False, "printshellcmds": False, "debug_dag": False}
    made = LogHandler(
        SimpleNamespace(**common | {"quiet": None, "nocolor": True, "show_failed_logs": False} | asked), None
    )
    made.stream, made.terminal = io.StringIO(), False
    return made


def record(level=logging.INFO, text=None, **more) -> logging.LogRecord:
    made = logging.LogRecord("snakemake", level, "", 0, text, None, None)
    made.__dict__.update(more)
    return made


def test_warnings_are_said_once_and_a_job_that_starts_again_has_not_failed():
    seen = handler()
    seen.handle(record(event=LogEvent.RUN_INFO, stats={"lora": 1, "total": 1}))
    for _ in range(3):
        seen.handle(record(logging.WARNING, "the disk is slow"))
    job = {"jobid": 3, "rule_name": "lora", "log": ["nowhere"]}
    for k in range(2):
        seen.handle(record(event=LogEvent.JOB_INFO, rule_msg="adapter of nevus", **job))
        if k == 0:
            seen.handle(record(logging.ERROR, event=LogEvent.JOB_ERROR, rule_msg="SLURM status is: TIMEOUT", **job))
            seen.handle(record(text="Trying to restart job 3."))
    seen.handle(record(text="Finished", event=LogEvent.JOB_FINISHED, job_id=3))
    seen.handle(record(event=LogEvent.PROGRESS, done=1, total=1))
    seen.close()
    text = seen.stream.getvalue()
    assert text.count("the disk is slow") == 1
    assert text.count("Trying to restart: adapter of nevus, after: SLURM status is: TIMEOUT") == 1
    assert "failed" not in text and re.search(r"1 of 1 done in 0 s\.\n$", text)


def test_a_job_that_says_nothing_is_told_by_who_ended_it_and_not_by_its_figures(tmp_path):
    (tmp_path / "lora.log").write_text("lora:  10%|x| 1/10\r")
    (tmp_path / "lora.metrics.jsonl").write_text('{"stage": "lora", "seconds": 4}\n')
    job = {"jobid": 3, "rule_name": "lora", "log": [tmp_path / "lora.log", tmp_path / "lora.metrics.jsonl"]}
    for told, wanted in (("SLURM status is: TIMEOUT", "SLURM status is: TIMEOUT"), (None, "it said nothing; ")):
        seen = handler()
        seen.handle(record(event=LogEvent.RUN_INFO, stats={"lora": 1, "total": 1}))
        seen.handle(record(event=LogEvent.JOB_INFO, rule_msg="adapter of nevus", **job))
        seen.handle(record(logging.ERROR, event=LogEvent.JOB_ERROR, rule_msg=told, **job))
        seen.close()
        assert f"  adapter of nevus: {wanted}" in seen.stream.getvalue()


def test_quiet_says_only_what_went_wrong():
    seen = handler(quiet={"all"})
    seen.handle(record(event=LogEvent.RUN_INFO, stats={"lora": 1, "total": 1}))
    seen.close()
    assert seen.stream.getvalue() == ""
