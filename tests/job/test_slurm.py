"""What Snakemake hears from sbatch and squeue in a cluster's bad hours, with SLURM's commands played by small scripts."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from cgddi.job import slurm

CALL = ["sbatch", "--parsable", "--job-name", "run1", "--comment", "rule_lora_wildcards_main_nevus", "-D", "."]
STATUS = ["squeue", "--format=%i|%T", "--states=all", "--noheader", "--name", "run1"]


@pytest.fixture
def site(tmp_path, monkeypatch):
    """SLURM's commands as scripts that read `answers/<tool>`, one line of shell each; `calls` holds what they were asked."""
    monkeypatch.chdir(tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    (tmp_path / "answers").mkdir()
    (tmp_path / "results").mkdir()
    for tool in ("sbatch", "squeue", "sacct", "scontrol"):
        (tools / tool).write_text(f'#!/bin/sh\necho "{tool} $*" >> {tmp_path}/calls\n. {tmp_path}/answers/{tool}\n')
        (tools / tool).chmod(0o755)
        (tmp_path / "answers" / tool).write_text("exit 1\n")
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    monkeypatch.delenv(slurm.HERE, raising=False)
    monkeypatch.setenv(slurm.FOLDERS, "")
    slurm.install("results")
    monkeypatch.setattr(slurm, "GRACE", 0)
    return tmp_path


def answer(tool, shell):
    Path("answers", tool).write_text(shell + "\n")


def call(words, **environment):
    return subprocess.run(words, capture_output=True, text=True, env={**os.environ, **environment}, timeout=60)


def calls(tool):
    return [line for line in Path("calls").read_text().splitlines() if line.startswith(tool)]


def submitted(number="7"):
    answer("sbatch", f"echo {number}")
    assert call(CALL).stdout == f"{number}\n"


@pytest.mark.parametrize(
    "refusal",
    [
        "sbatch: error: QOSMaxSubmitJobPerUserLimit; Batch job submission failed: Job violates accounting/QOS policy",
        "sbatch: error: AssocMaxSubmitJobLimit",
        "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)",
    ],
)
def test_a_refusal_that_passes_is_no_failure(site, refusal):
    """C3. Meanwhile it is noted what SLURM says; afterwards no more."""
    answer("sbatch", f'[ -f second ] && echo 7 && exit 0; touch second; echo "{refusal}" >&2; exit 1')
    running = subprocess.Popen(CALL, stdout=subprocess.PIPE, text=True)
    note = slurm.refused_file(".", "rule_lora_wildcards_main_nevus")
    end = time.monotonic() + 20
    while not note.exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert refusal[15:30] in note.read_text()
    assert running.communicate(timeout=30)[0] == "7\n" and running.returncode == 0
    assert len(calls("sbatch")) == 2 and not note.exists()


@pytest.mark.parametrize(
    "refusal",
    [
        "sbatch: error: invalid partition specified: nigth",
        "sbatch: error: Batch job submission failed: Requested node configuration is not available",
        "sbatch: error: Batch job submission failed: Requested time limit is invalid (missing or exceeds some limit)",
    ],
)
def test_a_mistake_is_told_at_once(site, refusal):
    answer("sbatch", f'echo "{refusal}" >&2; exit 1')
    done = call(CALL)
    assert done.returncode == 1 and refusal in done.stderr and len(calls("sbatch")) == 1


def test_waiting_ends(site):
    answer("sbatch", 'echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1')
    done = call(CALL, **{slurm.WAIT: "0"})
    assert done.returncode == 1 and "QOSMaxSubmitJobPerUserLimit" in done.stderr


def test_nothing_is_submitted_for_a_snakemake_that_has_died(site):
    answer("sbatch", 'echo "sbatch: error: QOSMaxSubmitJobPerUserLimit" >&2; exit 1')
    parent = subprocess.Popen([sys.executable, "-c", f"import subprocess; subprocess.run({CALL})"])
    end = time.monotonic() + 30
    while not Path("calls").exists() and time.monotonic() < end:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    answer("sbatch", "echo 7")
    note = slurm.refused_file(".", "rule_lora_wildcards_main_nevus")
    while note.exists() and time.monotonic() < end:
        time.sleep(0.2)
    assert len(calls("sbatch")) == 1 and not note.exists()


def test_a_lost_answer_submits_no_job_twice(site):
    """SLURM took the job, but its answer timed out."""
    answer("sbatch", 'echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1')
    answer("squeue", 'echo "12|rule_lora_wildcards_main_nevus"')
    done = call(CALL)
    assert done.returncode == 0 and done.stdout == "12\n" and len(calls("sbatch")) == 1


def test_a_controller_that_does_not_answer_changes_nothing(site):
    """C4. The executor would forget its jobs for good."""
    submitted()
    answer("squeue", 'echo "7|RUNNING"')
    assert call(STATUS).stdout == "7|RUNNING\n"
    answer("squeue", "exit 1")
    done = call(STATUS)
    assert done.returncode == 0 and done.stdout == "7|RUNNING\n"


@pytest.mark.parametrize("state", ["PREEMPTED", "NODE_FAIL"])
def test_a_preempted_job_is_queued_again_under_its_number(site, state):
    """C1."""
    submitted()
    answer("squeue", f'echo "7|{state}"')
    answer("scontrol", "exit 0")
    assert call(STATUS).stdout == "7|PENDING\n"
    assert calls("scontrol") == ["scontrol requeue 7"]


def test_a_preempted_job_that_may_not_be_queued_again_has_failed(site):
    submitted()
    answer("squeue", 'case "$*" in *%i*) echo "7|PREEMPTED";; *) echo PREEMPTED;; esac')
    assert call(STATUS).stdout == "7|FAILED\n"
    assert call(STATUS).stdout == "7|FAILED\n" and len(calls("scontrol")) == 1


def test_slurm_was_quicker_to_queue_it(site):
    submitted()
    answer("squeue", 'case "$*" in *%i*) echo "7|PREEMPTED";; *) echo RUNNING;; esac')
    assert call(STATUS).stdout == "7|RUNNING\n"


@pytest.mark.parametrize(("accounts", "state"), [("exit 1", "COMPLETED"), ("echo FAILED", "FAILED")])
def test_a_job_that_slurm_has_forgotten_has_ended(site, monkeypatch, accounts, state):
    """C4: MinJobAge passed while nobody asked. The accounts tell how, where there are any; else its results do."""
    submitted()
    answer("squeue", "exit 0")
    answer("sacct", accounts)
    assert slurm.states("run1") == {"7": state}


def test_a_job_just_submitted_may_be_unknown_yet(site, monkeypatch):
    monkeypatch.setattr(slurm, "GRACE", 60)
    submitted()
    answer("squeue", "exit 0")
    assert slurm.states("run1") == {}


def test_a_failure_while_nothing_can_be_written_is_no_attempt(site, monkeypatch):
    submitted()
    answer("squeue", 'echo "7|FAILED"')
    answer("scontrol", "exit 0")
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("results") and access(path, mode))
    assert slurm.states("run1") == {"7": "RUNNING"} and not Path("calls").read_text().count("scontrol")
    monkeypatch.setattr(os, "access", access)
    assert slurm.states("run1") == {"7": "PENDING"}
    answer("squeue", 'echo "7|FAILED"')
    assert slurm.states("run1") == {"7": "FAILED"}, "its next failure is its own"


def test_an_end_that_snakemake_could_not_note_is_told_later(site, monkeypatch):
    submitted()
    answer("squeue", 'echo "7|COMPLETED"')
    access = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not str(path).endswith("results") and access(path, mode))
    assert slurm.states("run1") == {"7": "RUNNING"}
    monkeypatch.setattr(os, "access", access)
    assert slurm.states("run1") == {"7": "COMPLETED"}


def test_sacct_is_answered_as_squeue_and_other_questions_are_slurms(site):
    submitted()
    answer("squeue", 'echo "7|COMPLETED"')
    answer("sacct", "echo theirs")
    assert call(["sacct", "-X", "--parsable2", "--name", "run1"]).stdout == "7|COMPLETED\n"
    assert call(["sacct", "-j", "7"]).stdout == "theirs\n"
    assert call(["squeue", "--me"]).stdout == "7|COMPLETED\n"


def test_the_commands_need_nothing_but_python(site):
    """They start in a tenth of a second, on any node."""
    source = Path(slurm.__file__).read_text()
    names = {
        line.split()[1].split(".")[0] for line in source.splitlines() if line.strip().startswith(("import ", "from "))
    }
    assert names <= {*sys.stdlib_module_names, "pool"}  # which stands beside it
