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
    assert "nothing to repair" in capsys.readouterr().out


def test_other_folders_are_not_touched(killed, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    until(lambda: repair.orphans(killed.folder), lambda: f"the job does not start:\n{killed.log}")
    began = time.monotonic()
    assert repair.repair(elsewhere) == ["nothing to repair"]
    assert killed.process.poll() is None and time.monotonic() - began < 60
