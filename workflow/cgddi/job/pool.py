"""Jobs of a run inside allocations that are held: the queue is waited for once an allocation, not once a job.

Snakemake runs as on any SLURM cluster, but `sbatch` (see `job.slurm`) lays each job into a folder of the run, `.snakemake/pool`,
and `squeue` tells from there how it fares. In each allocation `cgddi work` takes jobs from it, as many at a time as fit its GPUs
(times `runs_per_gpu`) and CPUs; the jobs themselves share the GPUs out by leases. An allocation that ends, by its time limit or
because it was preempted or its node died, gives its jobs back, and another one goes on from their checkpoints. Standard library
only.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

POOL = "CGDDI_POOL"
"""Variable that names the folder in which jobs are laid."""
BEAT, LOST = 10.0, 90.0
"""Seconds between two signs of life of a worker, and after which one is taken for dead."""
MARGIN = 120
"""Seconds before an allocation's end at which it takes no more jobs and gives back those it has."""
STATES = ("waiting", "running", "ended")


class Pool:
    """The jobs of a run: a file each, in the folder of its state, moved by renaming.

    Args:
        folder: on a disk that all nodes see.
    """

    def __init__(self, folder):
        self.folder = Path(folder)
        for name in (*STATES, "workers", "cancel"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def submit(self, words, gpus: int, cpus: int, command: str, log: str, run: str) -> str:
        """Lay down a job; its number. `words` tells who asks, for people."""
        number = str(time.time_ns() // 1000)
        skipped = ("SLURM_", "SBATCH_", "SRUN_", "CUDA_VISIBLE")
        environment = {key: text for key, text in os.environ.items() if not key.startswith(skipped)}
        job = {"number": number, "run": run, "gpus": gpus, "cpus": cpus, "command": command, "log": log}
        _write(self.folder / "waiting" / number, {**job, "comment": words, "cwd": os.getcwd(), "env": environment})
        return number

    def take(self, gpus: int, cpus: int, worker: str):
        """The oldest waiting job that fits, moved to the running ones; None where there is none."""
        for path in sorted((self.folder / "waiting").glob("[0-9]*")):
            with suppress(OSError, ValueError):
                job = json.loads(path.read_text())
                if job["gpus"] <= gpus and job["cpus"] <= cpus:
                    place = self.folder / "running" / f"{path.name}.{worker}"
                    path.rename(place)  # fails where another worker was quicker
                    return job, place
        return None

    def end(self, place: Path, state: str) -> None:
        """A job has ended: COMPLETED, FAILED or CANCELLED."""
        with suppress(FileNotFoundError):
            place.rename(self.folder / "ended" / f"{place.name.split('.')[0]}.{state}")

    def give_back(self, place: Path) -> None:
        """A job that did not end: to be taken again."""
        with suppress(FileNotFoundError):
            place.rename(self.folder / "waiting" / place.name.split(".")[0])

    def states(self) -> dict:
        """Number -> SLURM's word for its state; jobs of workers that are dead wait again."""
        for place in list((self.folder / "running").glob("[0-9]*")):
            if not self.alive(place.name.partition(".")[2]):
                self.give_back(place)
        found = {path.name: "PENDING" for path in (self.folder / "waiting").glob("[0-9]*")}
        found |= {path.name.split(".")[0]: "RUNNING" for path in (self.folder / "running").glob("[0-9]*")}
        return found | {path.name.split(".")[0]: path.name.split(".")[1] for path in (self.folder / "ended").iterdir()}

    def beat(self, worker: str) -> None:
        """A sign of life."""
        (self.folder / "workers" / worker).touch()

    def alive(self, worker: str) -> bool:
        """Whether a worker gave a sign of life of late. By the times of the shared disk, not of two clocks.

        Where the disk does not tell, it did: a job that two workers run at once spoils its own files.
        """
        probe = self.folder / "workers" / ".now"
        try:
            probe.touch()
            return probe.stat().st_mtime - (self.folder / "workers" / worker).stat().st_mtime < LOST
        except FileNotFoundError:
            return False
        except OSError:
            return True

    def cancel(self, numbers) -> None:
        """End jobs: those that wait at once, those that run by a mark that their worker finds."""
        for number in numbers:
            waiting = self.folder / "waiting" / number
            if waiting.exists():
                self.end(waiting, "CANCELLED")
            (self.folder / "cancel" / number).touch()

    def cancelled(self, place: Path) -> bool:
        """Whether a running job is to end."""
        return (self.folder / "cancel" / place.name.split(".")[0]).exists()


def waiting(folder) -> set:
    """The executor's names of the jobs that wait in a pool; none where there is no pool."""
    names = set()
    for place in Path(folder, "waiting").glob("[0-9]*"):
        with suppress(OSError, ValueError):
            names.add(json.loads(place.read_text())["comment"])
    return names


def _write(path: Path, value) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(value))
    temporary.rename(path)


def asked(words) -> tuple:
    """(GPUs, CPUs) that an sbatch call asks for."""
    text = " ".join(words)
    gres = re.search(r"--gres=gpu(?::[A-Za-z]\w*)?(?::(\d+))?", text)
    plain = re.search(r"--gpus[= ](?:[A-Za-z]\w*:)?(\d+)", text)
    gpus = int(plain[1]) if plain else int(gres[1] or 1) if gres else 0
    cpus = re.search(r"--cpus-per-(?:task|gpu)[= ](\d+)", text)
    return gpus, int(cpus[1]) if cpus else 1


class Worker:
    """Runs jobs of a pool inside an allocation, until it ends or nobody needs it.

    Args:
        pool: the jobs. gpus: jobs with a GPU at a time. cpus: CPUs. idle: seconds without any job after which it leaves.
    """

    def __init__(self, pool: Pool, gpus: int, cpus: int, idle: float):
        self.pool, self.gpus, self.cpus, self.idle = pool, gpus, cpus, idle
        self.name = f"{os.uname().nodename}-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self.jobs = {}
        self.leaving = False
        self.end = float(os.environ.get("SLURM_JOB_END_TIME") or "inf") - MARGIN

    def start(self, job, place: Path) -> None:
        environment = {
            **job["env"],
            **{k: v for k, v in os.environ.items() if k.startswith(("SLURM_JOB", "CUDA_", "GPU_"))},
        }
        if value := os.environ.get("CGDDI_RUNS_PER_GPU"):
            environment["CGDDI_RUNS_PER_GPU"] = value
        # A job step would wait for the whole allocation, and start a second Snakemake: here the first one runs the job itself.
        command = job["command"].replace("--executor slurm-jobstep", "--executor local")
        log = Path(job["log"].replace("%j", job["number"]))
        log.parent.mkdir(parents=True, exist_ok=True)
        with open(log, "ab") as file:
            process = subprocess.Popen(
                ["/bin/sh", "-c", command], cwd=job["cwd"], env=environment, stdin=subprocess.DEVNULL,
                stdout=file, stderr=file, start_new_session=True,
            )  # fmt: skip
        self.jobs[place] = (job, process)

    def look(self) -> None:
        """Notice which jobs have ended or are to end."""
        for place, (_, process) in list(self.jobs.items()):
            if process.poll() is None and self.pool.cancelled(place):
                _end(process)
            if process.poll() is not None:
                del self.jobs[place]
                if self.pool.cancelled(place):
                    self.pool.end(place, "CANCELLED")
                else:
                    self.pool.end(place, "COMPLETED" if process.returncode == 0 else "FAILED")

    def leave(self) -> None:
        """End what runs, with time for a checkpoint, and give it back."""
        for _, process in self.jobs.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        limit = time.monotonic() + min(60, MARGIN / 2)
        for place, (_, process) in self.jobs.items():
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.1, limit - time.monotonic()))
            _end(process)
            self.pool.give_back(place)
        self.jobs = {}

    def run(self) -> int:
        """Work; the number of jobs done."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: setattr(self, "leaving", True))
        done, since, beat = 0, time.monotonic(), 0.0
        try:
            while not self.leaving and time.time() < self.end:
                if time.monotonic() - beat > BEAT:
                    self.pool.beat(self.name)
                    beat = time.monotonic()
                before = len(self.jobs)
                self.look()
                done += before - len(self.jobs)
                free = (
                    self.gpus - sum(job["gpus"] for job, _ in self.jobs.values()),
                    self.cpus - sum(job["cpus"] for job, _ in self.jobs.values()),
                )
                if taken := self.pool.take(*free, self.name):
                    self.start(*taken)
                    continue
                if self.jobs:
                    since = time.monotonic()
                elif time.monotonic() - since > self.idle:
                    break
                time.sleep(0.2)
        finally:
            self.leave()
        return done


def _end(process: subprocess.Popen) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main(argv) -> int:
    """`cgddi work`: run jobs of the run in the working directory inside this allocation."""

    from cgddi.core.arguments import command_parser
    from cgddi.job.lease import pool as devices
    from cgddi.job.lease import runs_per_gpu

    parser = command_parser("work", __doc__)
    parser.add_argument("--runs-per-gpu", type=int, help="jobs that share a GPU (default: CGDDI_RUNS_PER_GPU, else 1)")
    parser.add_argument("--gpus", type=int, help="GPUs (default: those that this allocation shows)")
    parser.add_argument("--cpus", type=int, help="CPUs (default: those of this allocation)")
    parser.add_argument(
        "--idle", type=float, default=600, help="leave after so many seconds without a job (default 600)"
    )
    args = parser.parse_args(argv)
    if args.runs_per_gpu:
        os.environ["CGDDI_RUNS_PER_GPU"] = str(args.runs_per_gpu)
    gpus = (len(devices()) if args.gpus is None else args.gpus) * runs_per_gpu()
    cpus = args.cpus or int(os.environ.get("SLURM_CPUS_ON_NODE") or os.cpu_count() or 1)
    print(f"cgddi work: {gpus} GPU jobs at a time, {cpus} CPUs", file=sys.stderr, flush=True)
    done = Worker(Pool(".snakemake/pool"), gpus, cpus, args.idle).run()
    print(f"cgddi work: {done} jobs done", file=sys.stderr)
    return 0
