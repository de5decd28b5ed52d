"""Jobs inside held allocations: who takes which, what becomes of them, and what an allocation that ends leaves behind."""

from __future__ import annotations

import errno
import json
import os
import signal
import time
from pathlib import Path

import pytest
from cgddi.job.pool import LOST, MARGIN, Pool, Worker, asked


@pytest.fixture
def pool(tmp_path, monkeypatch):
    """A pool below the working directory, whose tests leave signals and the environment as they were."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SLURM_JOB_END_TIME", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield Pool(tmp_path / "pool")
    for number, handler in before.items():
        signal.signal(number, handler)


def lay(pool, command="true", gpus=0, cpus=1):
    """Lay down a job; its number, larger than those before."""
    time.sleep(0.001)
    return pool.submit("a job", gpus, cpus, command, f"{pool.folder}/logs/%j.log", "run")


def work(pool, gpus=1, cpus=2, idle=0.3):
    worker = Worker(pool, gpus, cpus, idle)
    return worker.run(), worker


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--gres=gpu:2 --cpus-per-task=8", (2, 8)),
        ("--gres=gpu", (1, 1)),
        ("--gres=gpu:a100:3", (3, 1)),
        ("--gres=gpu:h100", (1, 1)),
        ("--gpus 2 --cpus-per-gpu=6", (2, 6)),
        ("--gpus=a100:4", (4, 1)),
        ("--mem 4000", (0, 1)),
    ],
)
def test_what_a_submission_asks_for(words, expected):
    assert asked(["--wrap", "x", *words.split()]) == expected


def test_the_oldest_job_that_fits_is_taken_and_by_one_worker(pool):
    wide, gpu, plain = lay(pool, cpus=9), lay(pool, gpus=1), lay(pool)
    taken = [pool.take(*free, name) for free, name in (((0, 4), "a"), ((0, 4), "b"), ((1, 4), "b"), ((1, 16), "a"))]
    assert [found and found[0]["number"] for found in taken] == [plain, None, gpu, wide]
    for worker in "ab":
        pool.beat(worker)
    assert pool.states() == dict.fromkeys((wide, gpu, plain), "RUNNING") and pool.take(9, 99, "c") is None


def test_a_job_brings_its_surroundings_but_not_the_place_it_was_laid_down_from(pool, monkeypatch):
    for name in ("SLURM_JOB_ID", "SBATCH_ACCOUNT", "SRUN_CPUS_PER_TASK", "CUDA_VISIBLE_DEVICES", "CGDDI_GPUS"):
        monkeypatch.setenv(name, "1")
    lay(pool)
    job, _ = pool.take(0, 1, "here")
    assert job["env"]["CGDDI_GPUS"] == "1" and job["env"]["PATH"] == os.environ["PATH"]
    assert not [name for name in job["env"] if name.startswith(("SLURM_", "SBATCH_", "SRUN_", "CUDA_VISIBLE"))]


def test_a_job_that_is_taken_while_it_is_cancelled_ends_all_the_same(pool, monkeypatch):
    number, ends, taken = lay(pool), pool.end, []

    def late(place, state):
        taken.append(pool.take(0, 1, "quick"))  # a worker comes between the look and the move
        ends(place, state)

    monkeypatch.setattr(pool, "end", late)
    pool.cancel([number])
    assert pool.cancelled(taken[0][1])


def test_jobs_of_a_worker_without_a_sign_of_life_wait_again(pool):
    number = lay(pool)
    pool.take(0, 1, "here")
    pool.beat("here")
    assert pool.states() == {number: "RUNNING"}
    old = time.time() - LOST - 5
    os.utime(pool.folder / "workers/here", (old, old))
    assert pool.states() == {number: "PENDING"} and pool.take(0, 1, "there")[0]["number"] == number


def test_a_disk_that_does_not_answer_is_no_sign_of_death(pool, monkeypatch):
    def stale(*_args, **_kw):
        raise OSError(errno.ESTALE, "Stale file handle")

    number = lay(pool)
    pool.take(0, 1, "here")
    pool.beat("here")
    monkeypatch.setattr(Path, "touch", stale)
    assert pool.states() == {number: "RUNNING"}


def test_a_worker_runs_what_there_is_and_says_how_each_ended(pool, monkeypatch):
    monkeypatch.setenv("CGDDI_KEPT", "yes")
    monkeypatch.setenv("SLURM_JOBID", "of the submitting job")
    good, bad = lay(pool, "echo $CGDDI_KEPT $PWD; echo --executor slurm-jobstep --jobs 1"), lay(pool, "exit 3", gpus=1)
    gone = lay(pool)
    pool.cancel([gone])
    assert json.loads((pool.folder / f"waiting/{good}").read_text())["env"].keys().isdisjoint({"SLURM_JOBID"})
    done, _ = work(pool)
    assert done == 2 and pool.states() == {good: "COMPLETED", bad: "FAILED", gone: "CANCELLED"}
    assert (pool.folder / f"logs/{good}.log").read_text().split("\n")[:2] == [
        f"yes {os.getcwd()}",
        "--executor local --jobs 1",
    ]


def test_as_many_jobs_at_a_time_as_fit(pool):
    """One GPU and three CPUs: the first three jobs wait for each other, and each notes how many run beside it."""
    wait = (
        "n=0; while [ ! -e met ] && [ $(ls on.* | wc -l) -lt 3 ] && [ $n -lt 400 ]; do n=$((n + 1)); sleep 0.02; done"
    )
    count = f"touch on.$$; {wait}; touch met; ls on.* | wc -l; sleep 0.1; rm on.$$"
    numbers = [lay(pool, count, gpus=gpus) for gpus in (1, 1, 0, 0, 0)]
    work(pool, gpus=1, cpus=3)
    beside = [int((pool.folder / f"logs/{number}.log").read_text()) for number in numbers]
    assert max(beside) == 3 and set(pool.states().values()) == {"COMPLETED"}


def test_a_running_job_is_ended_where_it_is_cancelled(pool):
    number = lay(pool, "sleep 60")
    (pool.folder / f"cancel/{number}").touch()
    began = time.monotonic()
    work(pool)
    assert pool.states() == {number: "CANCELLED"} and time.monotonic() - began < 50


def test_an_allocation_that_ends_gives_its_jobs_back_after_a_word_to_them(pool, monkeypatch):
    number = lay(pool, "trap 'echo saved > saved; exit 1' TERM; touch begun; while :; do sleep 0.05; done")
    worker = Worker(pool, 0, 1, 9)
    worker.start(*pool.take(0, 1, worker.name))
    while not os.path.exists("begun"):
        time.sleep(0.02)
    worker.leave()
    assert (pool.folder / f"waiting/{number}").exists(), "at once, and not where somebody finds that it is dead"
    assert pool.states() == {number: "PENDING"} and Path("saved").read_text() == "saved\n"
    monkeypatch.setenv("SLURM_JOB_END_TIME", str(time.time() + MARGIN - 5))
    done, worker = work(pool)
    assert done == 0 and pool.states() == {number: "PENDING"}, "too near its end"
    assert worker.end == pytest.approx(time.time() - 5, abs=3)
