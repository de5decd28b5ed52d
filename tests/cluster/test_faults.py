"""A small workflow on a real SLURM through profiles/slurm, undisturbed and with faults."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cgddi.watch.repair import cluster_jobs

from tests.cluster.running import ROOT, slurm_run, told, until, until_queued

SNAKEFILE = ["--snakefile", str(Path(__file__).parent / "Snakefile")]
WHOLE = "".join(f"{name}\n" for name in ("train1", "cut1", "train2", "cut2"))


def plan(folder, **jobs):
    """What the jobs shall do (see job.py)."""
    (folder / "plan").mkdir()
    for name, text in jobs.items():
        (folder / "plan" / name).write_text(text)


def starts(folder, name):
    """Lines a job wrote when it started, one for each attempt."""
    path = folder / "runs" / name
    return path.read_text().splitlines() if path.exists() else []


def seconds_done(folder, name):
    path = folder / "state" / name
    return int(path.read_text()) if path.exists() else 0


def seconds_worked(folder, name):
    """Seconds of work in all attempts together; one more than planned when a job died between work and checkpoint."""
    return len((folder / "work" / name).read_text())


def job_of(cluster, folder, comment):
    """The running cluster job of a rule and wildcards."""
    return [
        job["JobId"]
        for job in cluster.jobs()
        if job.get("Comment") == comment and job["WorkDir"] == str(folder) and job["JobState"] == "RUNNING"
    ]


def under_way(run, *names, seconds=2):
    """Wait until jobs have done some seconds of their work."""
    for name in names:
        until(
            lambda name=name: seconds_done(run.folder, name) >= seconds,
            lambda name=name: f"{name} does not run:\n{run.log}",
        )


def pooled(folder):
    return sorted((folder / "out" / "pool.txt").read_text().split()) == sorted(WHOLE.split())


@pytest.fixture(scope="module")
def disturbed(cluster, tmp_path_factory):
    """A run in which one job is cancelled, one is requeued and one has too little memory. It goes on while tests run."""
    folder = tmp_path_factory.mktemp("disturbed")
    plan(folder, train1="seconds 8", train2="seconds 8", cut1="seconds 3", cut2="memory 1300")
    run = slurm_run(folder, *SNAKEFILE)
    try:
        under_way(run, "train1", "train2")
        subprocess.run(["scancel", *job_of(cluster, folder, "rule_train_wildcards_1")], check=True)
        subprocess.run(["scontrol", "requeue", *job_of(cluster, folder, "rule_train_wildcards_2")], check=True)
        yield run
    finally:
        run.end()


def test_a_killed_controller_is_repaired(disturbed, start, tmp_path):
    """kill -9 of Snakemake: `cgddi repair` cancels its jobs and unlocks; the next run finishes without doing a job twice."""
    plan(tmp_path, train1="seconds 600")
    first = start(tmp_path, *SNAKEFILE, "out/train1.txt")
    repair = [sys.executable, "-m", "cgddi.cli", "repair"]
    options = {"cwd": tmp_path, "env": {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}, "text": True}
    under_way(first, "train1")
    refused = subprocess.run(repair, capture_output=True, **options)
    assert refused.returncode == 2 and "Snakemake is running" in refused.stderr

    first.end(signal.SIGKILL)
    (left,) = cluster_jobs(tmp_path)
    assert told(tmp_path, "train1") == ("running", f"cluster job {left['id']}"), "it outlives its Snakemake"
    locked = start(tmp_path, *SNAKEFILE, "out/train1.txt")
    assert locked.finish() != 0 and "locked" in locked.log
    done = subprocess.run(repair, capture_output=True, **options)
    assert done.returncode == 0 and "cancelled" in done.stdout and "removed the lock" in done.stdout, done
    assert cluster_jobs(tmp_path) == [] and told(tmp_path, "train1")[0] == "missing"

    whole = seconds_done(tmp_path, "train1") + 2
    (tmp_path / "plan" / "train1").write_text(f"seconds {whole}")
    again = start(tmp_path, *SNAKEFILE, "out/train1.txt")
    assert again.finish() == 0, again.log
    assert (tmp_path / "out" / "train1.txt").read_text() == "train1\n"
    assert len(starts(tmp_path, "train1")) == 2 and 0 <= seconds_worked(tmp_path, "train1") - whole <= 1
    assert subprocess.run(repair, capture_output=True, **options).stdout.startswith("nothing to repair")


def test_disturbed_run_ends_as_an_undisturbed_one(cluster, disturbed):
    """Each of the three disturbed jobs ends with its own remedy, and the GPU jobs alone ask for GPUs."""
    run, folder = disturbed, disturbed.folder
    assert run.finish() == 0, run.log
    assert pooled(folder)

    jobs = [job for job in cluster.jobs(every=True) if job["WorkDir"] == str(folder)]
    asked = {job["JobId"]: job.get("TresPerJob") for job in jobs if "train" in job["Comment"]}
    assert len(asked) == 3 and set(asked.values()) == {"gres:gpu:1"}  # train1 twice, train2 requeued under its number
    assert not any("gres:gpu" in job.get("TresPerJob", "") for job in jobs if "train" not in job["Comment"])
    seen = [line.split("gpus=") for name in ("train1", "train2") for line in starts(folder, name)]
    assert all(gpu in ("0", "1") for _, gpu in seen)
    # Each was started twice, and went on from its checkpoint.
    assert [len(starts(folder, name)) for name in ("train1", "train2", "cut1")] == [2, 2, 1]
    assert all(8 <= seconds_worked(folder, name) <= 9 for name in ("train1", "train2"))
    memory = sorted(int(job["MinMemoryNode"].rstrip("MG")) for job in jobs if job["Comment"] == "rule_cut_wildcards_2")
    assert len(memory) == 2 and memory[0] < memory[1]


@pytest.mark.slow
def test_ctrl_c_cancels_the_jobs_and_leaves_no_lock(cluster, start, tmp_path):
    plan(tmp_path, train1="seconds 8", train2="seconds 8")
    run = start(tmp_path, *SNAKEFILE)
    under_way(run, "train1", seconds=1)
    run.end(signal.SIGINT)
    until(lambda: not cluster_jobs(tmp_path), "jobs outlive Ctrl-C")
    again = start(tmp_path, *SNAKEFILE)
    assert again.finish() == 0, again.log
    assert pooled(tmp_path)


@pytest.mark.slow
def test_a_preempted_job_comes_back_and_goes_on(cluster, start, tmp_path):
    """Someone's urgent jobs take all GPUs: ours go back into the queue, no attempt is used up, no work done twice."""
    plan(tmp_path, train1="seconds 25", train2="seconds 25")
    run = start(tmp_path, *SNAKEFILE)
    under_way(run, "train1", "train2")
    urgent = ["sbatch", "--parsable", "--partition=night", "--nodes=2", "--gpus-per-node=2", "--output=/dev/null"]
    subprocess.run([*urgent, "--wrap", "sleep 8"], check=True, cwd="/", capture_output=True)
    until_queued(run, "train1")
    assert run.finish() == 0, run.log
    assert pooled(tmp_path) and "Trying to restart" not in run.log, run.story
    assert [len(starts(tmp_path, name)) for name in ("train1", "train2")] == [2, 2]
    assert all(25 <= seconds_worked(tmp_path, name) <= 26 for name in ("train1", "train2"))
    restarts = [job["Restarts"] for job in cluster.jobs(every=True) if "train" in job.get("Comment", "")
                and job["WorkDir"] == str(tmp_path)]  # fmt: skip
    assert restarts == ["1", "1"]


@pytest.mark.slow
def test_a_dead_nodes_jobs_move_to_the_other_node(cluster, start, tmp_path):
    plan(tmp_path, train1="seconds 20", train2="seconds 20")
    run = start(tmp_path, *SNAKEFILE)

    def node_of_train1():
        number = job_of(cluster, tmp_path, "rule_train_wildcards_1")
        return [job["NodeList"] for job in cluster.jobs() if job["JobId"] in number]

    (node,) = until(node_of_train1, lambda: f"no job:\n{run.log}")
    until(lambda: seconds_done(tmp_path, "train1") >= 2, "train1 does not run")
    cluster.kill_node(node)
    try:
        until_queued(run, "train1")
        assert run.finish() == 0, run.log
        assert pooled(tmp_path)
        assert len(starts(tmp_path, "train1")) == 2
        assert "Trying to restart" not in run.log, run.story  # no attempt was used up
    finally:
        cluster.start_node(node)
        until(lambda: set(cluster.states().values()) == {"IDLE"}, "the node does not come back")


@pytest.mark.slow
def test_limits_below_what_jobs_ask_for(cluster, start, tmp_path):
    """C2. A training of 110 s on a partition of two minutes: the first attempt has one minute (SLURM looks every 30 s), the second
    two, not more, and goes on. A job that needs 1.5 GB has 0.8 GB first, then the site's 2 GB and not its own 2.4. Without the
    site's limits the partition would never take it, and `status` says so."""
    plan(tmp_path, train1="seconds 110", cut2="memory 1300")
    brief = ["--default-resources", "slurm_partition=brief", "mem_mb=500", "runtime=1", "--config"]
    hopeless = start(tmp_path, *SNAKEFILE, *brief, "minutes=5", "--until", "train")
    assert re.match(r"SLURM says Partition(TimeLimit|Config): cluster job \d+", until_queued(hopeless, "train1"))
    hopeless.end(signal.SIGINT)
    run = start(tmp_path, *SNAKEFILE, *brief, "minutes=1", "max_runtime=2", "max_mem=2000")
    assert run.finish() == 0, run.log
    jobs = [job for job in cluster.jobs(every=True) if job["WorkDir"] == str(tmp_path)]
    limits = [job["TimeLimit"] for job in jobs if job["Comment"] == "rule_train_wildcards_1"]
    assert sorted(limits) == ["00:01:00", "00:02:00", "00:05:00"]
    memory = [job["MinMemoryNode"] for job in jobs if job["Comment"] == "rule_cut_wildcards_2"]
    assert sorted(memory) == ["2000M", "800M"]
    assert pooled(tmp_path) and len(starts(tmp_path, "train1")) == 2
    assert 110 <= seconds_worked(tmp_path, "train1") <= 111
