"""A cluster's bad week, on a real SLURM: each fault ends with the results of an undisturbed run, and no attempt is used up."""

import os
import signal
import subprocess
import time

import pytest
from cgddi.watch import site
from cgddi.watch.repair import cluster_jobs

from tests.cluster.running import told, until, until_queued
from tests.cluster.test_faults import (
    SNAKEFILE,
    job_of,
    plan,
    pooled,
    seconds_worked,
    starts,
    under_way,
)
from tests.disk import mounted

URGENT = ["sbatch", "--parsable", "--partition=night", "--nodes=2", "--gpus-per-node=2", "--output=/dev/null", "--wrap"]


def whole(run, *names):
    """The run has ended well, and no attempt of a job was used up."""
    assert run.finish() == 0, run.log
    assert pooled(run.folder) and "Trying to restart" not in run.log, run.story
    return [len(starts(run.folder, name)) for name in names]


def ask(partition, minutes):
    return ["--default-resources", f"slurm_partition={partition}", "mem_mb=500", f"runtime={minutes}"]


def test_what_a_cluster_gives_is_read_from_it(cluster, tmp_path):
    """C2. A job that asks for more than its partition has would wait for ever: `cgddi check` says so before, `status` why."""
    known = site.partitions()
    brief, main, scrap = (known[name] for name in ("brief", "main", "scrap"))
    assert (brief.minutes, brief.memory, main.minutes, main.memory) == (2, 4000, None, 64000)
    assert main.default and main.gpus == {"fake"} and (main.preempt, scrap.preempt) == ("REQUEUE", "CANCEL")
    wanted = [site.Asked("train", attempt, 2 * attempt, 1000, 1, None, "brief") for attempt in (1, 2, 3)]
    (problem,) = site.problems(wanted, known)
    assert "partition brief gives at most 2 minutes, train ask for up to 6 from attempt 2 on" in str(problem)
    submit = [
        "sbatch",
        "--parsable",
        "--partition=brief",
        "--time=4",
        "--mem=100",
        "--job-name=cgddi_x",
        "--output=/dev/null",
    ]
    done = subprocess.run([*submit, "--wrap", "true"], check=True, cwd=tmp_path, capture_output=True, text=True)
    try:
        (job,) = until(lambda: [j for j in cluster_jobs(tmp_path) if j["reason"] != "None"], "no reason", 30)
        assert job["state"] == "PENDING" and job["reason"] in ("PartitionTimeLimit", "PartitionConfig"), job
    finally:
        subprocess.run(["scancel", done.stdout.strip()], check=True)


def test_a_submission_refused_for_a_while_is_no_attempt(cluster, start, tmp_path, monkeypatch):
    """C3. The first calls of sbatch are refused as by a submit limit."""
    tools = tmp_path / "tools"
    tools.mkdir()
    real = subprocess.run(["which", "sbatch"], capture_output=True, text=True, check=True).stdout.strip()
    refusal = "sbatch: error: QOSMaxSubmitJobPerUserLimit"
    script = f'echo call >> {tools}/calls\n[ $(wc -l < {tools}/calls) -le 4 ] && echo "{refusal}" >&2 && exit 1'
    (tools / "sbatch").write_text(f'#!/bin/sh\n{script}\nexec {real} "$@"\n')
    (tools / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    plan(tmp_path)
    run = start(tmp_path, *SNAKEFILE)
    said = ("queued", f"SLURM takes no more jobs for now, and is asked again: {refusal}")
    until(lambda: said in [told(tmp_path, name) for name in ("train1", "train2", "cut1", "cut2")], lambda: run.log, 60)
    assert whole(run, "train1", "train2", "cut1", "cut2") == [1, 1, 1, 1]
    calls = (tools / "calls").read_text().splitlines()
    assert len(calls) > 4 and not list((tmp_path / ".snakemake").glob("slurm_refused/*"))


@pytest.mark.slow
def test_a_job_preempted_for_good_is_queued_again(cluster, start, tmp_path):
    """C1. PreemptMode=CANCEL: SLURM forgets the job, the run puts it back, and it goes on from its checkpoint."""
    plan(tmp_path, train1="seconds 25", train2="seconds 25")
    run = start(tmp_path, *SNAKEFILE, *ask("scrap", 5))
    under_way(run, "train1", "train2")
    subprocess.run([*URGENT, "sleep 8"], check=True, cwd="/", capture_output=True)
    assert until_queued(run, "train1").startswith("SLURM says ")
    assert whole(run, "train1", "train2") == [2, 2]
    assert all(25 <= seconds_worked(tmp_path, name) <= 26 for name in ("train1", "train2"))


@pytest.mark.slow
def test_the_controller_goes_away_and_comes_back(cluster, start, tmp_path):
    """C4. The executor asks in vain five times and more; the jobs ran on, and are found again."""
    plan(tmp_path, train1="seconds 10", train2="seconds 10")
    run = start(tmp_path, *SNAKEFILE)
    under_way(run, "train1", "train2")
    cluster.stop_controller()
    end = time.monotonic() + 30
    assert told(tmp_path, "train1") == ("running", "as far as known: the cluster does not answer")
    time.sleep(max(0, end - time.monotonic()))
    cluster.start_controller()
    assert whole(run, "train1", "train2") == [1, 1]


@pytest.mark.slow
def test_snakemake_stands_still_longer_than_slurm_remembers(cluster, start, tmp_path):
    """C4. The jobs end and are forgotten while nobody asks: their results tell that they ended."""
    plan(tmp_path, train1="seconds 6", train2="seconds 6")
    cluster.set(MinJobAge=2)
    try:
        run = start(tmp_path, *SNAKEFILE)
        under_way(run, "train1", "train2")
        run.process.send_signal(signal.SIGSTOP)
        mine = lambda: [job for job in cluster.jobs(every=True) if job["WorkDir"] == str(tmp_path)]  # noqa: E731
        until(lambda: not mine(), "SLURM remembers", 240)
        assert told(tmp_path, "train1")[0] in ("running", "done")
        run.process.send_signal(signal.SIGCONT)
        assert whole(run, "train1", "train2", "cut1") == [1, 1, 1]
    finally:
        cluster.set(MinJobAge=3600)


@pytest.mark.slow
def test_a_node_hangs_and_thaws_after_the_end(cluster, start, tmp_path):
    """C5. Its jobs were finished on the other node; what it does when it comes back leaves them whole."""
    plan(tmp_path, train1="seconds 20", train2="seconds 20")
    run = start(tmp_path, *SNAKEFILE)
    under_way(run, "train1", "train2")
    number = job_of(cluster, tmp_path, "rule_train_wildcards_1")
    (node,) = [job["NodeList"] for job in cluster.jobs() if job["JobId"] in number]
    still = cluster.hang_node(node)
    try:
        assert told(tmp_path, "train1") == ("running", f"cluster job {number[0]}")
        until_queued(run, "train1")
        assert whole(run, "train1") == [2]
        before = {path: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    finally:
        cluster.thaw(still)
        until(lambda: set(cluster.states().values()) == {"IDLE"}, "the node does not come back", 120)
    time.sleep(5)
    assert {path: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before and len(before) == 5
    again = start(tmp_path, *SNAKEFILE)
    assert again.finish() == 0 and "Nothing to be done" in again.log.rpartition("Building DAG")[2]


@pytest.mark.slow
def test_results_that_cannot_be_written_for_a_minute(cluster, start, tmp_path):
    """A shared disk that went read-only: what failed meanwhile is no attempt."""
    plan(tmp_path, train1="seconds 8", train2="seconds 8")
    with mounted(tmp_path / "out", "10m"):
        run = start(tmp_path, *SNAKEFILE)
        under_way(run, "train1", "train2")
        subprocess.run(["mount", "-o", "remount,ro", str(tmp_path / "out")], check=True)
        try:
            time.sleep(30)
            assert told(tmp_path, "train1")[0] in ("running", "missing")  # it runs, or has failed without a log
        finally:
            subprocess.run(["mount", "-o", "remount,rw", str(tmp_path / "out")], check=True)
        whole(run)
        assert all(8 <= seconds_worked(tmp_path, name) <= 9 for name in ("train1", "train2"))
        run.end()
        kept = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert {"train1.txt", "train2.txt", "pool.txt"} <= set(kept)
