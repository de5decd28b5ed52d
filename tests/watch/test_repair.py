"""`cgddi repair` after a killed local run; the cluster's side is in tests/cluster."""

import signal
import subprocess
import sys
import time

import pytest
from cgddi.core.errors import UserError
from cgddi.watch import repair

from tests.cluster.running import Run, until

JOB = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(open("saved", "w").close()))
open("started", "w").close()
time.sleep(100)
"""
SNAKEFILE = f"""
rule all:
    output: "out"
    shell: "{sys.executable} job.py cgddi.cli lora --spec results/x/.plan/lora/main.nevus.json && touch {{output}}"
"""


@pytest.fixture
def killed(tmp_path, monkeypatch):
    """A folder whose Snakemake is alive; the test kills it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "job.py").write_text(JOB)
    run = Run(tmp_path, "--cores", "1")
    yield run
    run.end()
    for pid in repair.orphans(tmp_path):
        repair._signal(pid, signal.SIGKILL)


def test_a_live_run_is_left_alone_and_a_killed_ones_jobs_are_ended(killed, capsys):
    folder = killed.folder
    until(lambda: (folder / "started").exists(), lambda: f"the job does not start:\n{killed.log}")
    assert repair.controllers(folder) == [killed.process.pid]
    with pytest.raises(UserError, match="Snakemake is running"):
        repair.repair(folder)
    killed.end(signal.SIGKILL)
    assert repair.orphans(folder), "the job outlives its Snakemake: that is what repair is for"
    (folder / "snakemake").write_text("#!/bin/sh\nsleep 100\n")
    (folder / "snakemake").chmod(0o755)
    sleep = [sys.executable, "-c", "import time; time.sleep(100)", "cgddi.cli", "status"]
    others = [
        subprocess.Popen(sleep, cwd=folder),  # a person's own command
        subprocess.Popen([folder / "snakemake", "--target-jobs", "x"], cwd=folder),  # one job of another run
    ]
    assert repair.main([]) == 0
    text = capsys.readouterr().out
    assert "ended 1 job(s) of the dead run on this machine" in text and "removed the lock" in text
    assert not repair.orphans(folder) and not list((folder / ".snakemake" / "locks").iterdir())
    assert (folder / "saved").exists(), "a training may write its checkpoint"
    for other in others:
        assert other.poll() is None, "only the run's own jobs are ended"
        other.kill()
        other.wait()
    assert repair.main([]) == 0
    text = capsys.readouterr().out
    assert "nothing to repair" in text and "no results were checked: give --configfile" in text


def test_a_job_that_will_not_end_is_ended_by_force(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    real = repair._gone
    monkeypatch.setattr(repair, "_gone", lambda find, seconds=90: real(find, 1))
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open('deaf', 'w'); time.sleep(60)"
    command = [sys.executable, "-c", deaf, "cgddi.cli", "lora", "--spec", "results/x/.plan/lora/a.json"]
    with subprocess.Popen(command, cwd=tmp_path) as job:
        until((tmp_path / "deaf").exists, "the job does not start")
        assert repair.repair(tmp_path) == ["ended 1 job(s) of the dead run on this machine"]
        assert job.wait(5) == -signal.SIGKILL


SQUEUE = """#!/bin/sh
[ -z "$SQUEUE_SAYS" ] || { echo "$SQUEUE_SAYS" >&2; exit 1; }
echo "7|anna|RUNNING|None|cgddi_run|rule_lora_wildcards_x|$PWD"
echo "8|anna|PENDING|Priority|cgddi_run|rule_lora|$PWD/another"
echo "9|anna|RUNNING|None|mine|bash|$PWD"
echo "slurm_load_jobs: a line of another kind"
"""


def test_cluster_jobs_are_those_that_a_run_in_this_folder_submitted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "squeue").write_text(SQUEUE)
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert repair.cluster_jobs(tmp_path) == [
        {"id": "7", "user": "anna", "state": "RUNNING", "reason": "None", "what": "rule_lora_wildcards_x"}
    ]
    monkeypatch.setenv("SQUEUE_SAYS", "cannot find a configuration source")
    assert repair.cluster_jobs(tmp_path) == [], "no cluster's machine"
    monkeypatch.setenv("SQUEUE_SAYS", "Socket timed out")
    with pytest.raises(UserError, match="squeue failed: Socket timed out"):
        repair.cluster_jobs(tmp_path)


def test_other_folders_are_not_touched(killed, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    until(lambda: repair.orphans(killed.folder), lambda: f"the job does not start:\n{killed.log}")
    began = time.monotonic()
    assert repair.repair(elsewhere) == ["nothing to repair"]
    assert killed.process.poll() is None and time.monotonic() - began < 60
