"""Fan-out: chains embedding -> lora -> semantic of fixed length on 4 fake GPUs: how near the makespan comes to the ideal.

Ideal: every GPU works from the first second to the last, and a job costs nothing but its own time. What is above it grows with
the number of jobs, not with their length, so it is measured on short jobs and also told for jobs of 60 s, the shortest of a
real run. On this machine through leases (65 chains); on a real SLURM too, where root and `slurm-wlm` are there. There, two
sizes tell what each job costs (sbatch, srun and Snakemake's two starts on the node) from what each run costs once (the last
question about a job's state), and from these follows the makespan of 65 chains of 60-second jobs. Last, where the queue is long:
the same jobs in two allocations of two GPUs each (profiles/allocations), which the cluster gives only after a while. With
`--whole N` the 65 chains of 60-second jobs are run, in two allocations of N / 2 GPUs, two minutes after they were asked for.
"""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GPUS = 4
SNAKEFILE = """
import sys

from cgddi.job import slurm

if workflow.is_main_process:
    slurm.install(held=config["allocations"])
CHAINS = range(int(config["chains"]))
JOB = f"{sys.executable} -m cgddi.cli lease -- sleep {config['seconds']} && echo $CUDA_VISIBLE_DEVICES > "


localrules: all


rule all:
    input: expand("semantic/{n}", n=CHAINS)


rule embedding:
    output: "embedding/{n}"
    priority: 30
    resources: gpu=1, mem_mb=500
    shell: "{JOB}{output}"


rule lora:
    input: "embedding/{n}"
    output: "lora/{n}"
    priority: 20
    resources: gpu=1, mem_mb=500
    shell: "{JOB}{output}"


rule semantic:
    input: "lora/{n}"
    output: "semantic/{n}"
    priority: 10
    resources: gpu=1, mem_mb=500
    shell: "{JOB}{output}"
"""


QUEUE = 120
"""Seconds that an allocation waits in the queue, for the figures of 65 chains."""


def makespan(chains: int, seconds: float, *arguments: str, queued: float | None = None, gpus: int = GPUS) -> float:
    """Seconds from the start of Snakemake to its end.

    Args:
        chains: concepts; each is three jobs, one after another.
        seconds: length of a job.
        arguments: for snakemake.
        queued: seconds that two allocations of half the GPUs wait in the queue, asked for at the start; None: none are asked for.
        gpus: how many there are.
    """
    with tempfile.TemporaryDirectory(prefix="cgddi-fanout-") as folder:
        (Path(folder) / "Snakefile").write_text(SNAKEFILE)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SNAKEMAKE_"))}
        environment |= {"PYTHONPATH": str(ROOT / "workflow"), "CGDDI_LEASE_DIR": f"{folder}/leases"}
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(gpus)))
        values = [f"chains={chains}", f"seconds={seconds}", f"allocations={queued is not None}"]
        command = [sys.executable, "-m", "snakemake", *arguments, "--config", *values]
        began = time.monotonic()
        if queued is not None:
            hold = {**environment, "PYTHON": sys.executable, "IDLE": "20"}
            del hold["CUDA_VISIBLE_DEVICES"]
            options = [f"--begin=now+{queued:g}", f"--gpus-per-node={gpus // 2}", f"--output={folder}/work.log"]
            for _ in range(2):
                work = ["sbatch", *options, str(ROOT / "profiles/allocations/work.sh")]
                subprocess.run(work, cwd=folder, env=hold, check=True, capture_output=True)
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        took = time.monotonic() - began
        if done.returncode or len(list(Path(folder, "semantic").iterdir())) != chains:
            raise RuntimeError(f"fan-out run failed:\n{done.stderr[-3000:]}")
        return took


def waves(chains: int, gpus: int = GPUS) -> int:
    """Jobs that one GPU works off, one after another."""
    return math.ceil(3 * chains / gpus)


def figures(
    where: str, chains: int, seconds: float, took: float, per_job: float, once: float, queue: float = 0
) -> dict:
    """One row: the makespan as a multiple of the ideal, as measured, and for 65 chains of 60-second jobs after a queue's wait."""
    ideal = waves(chains) * seconds
    return {
        "name": f"fanout ({where})",
        "unit": "s",
        "ours": round(took, 1),
        "reference": ideal,
        "ratio": round(ideal / took, 3),
        "jobs": f"{3 * chains} jobs of {seconds:g} s on {GPUS} GPUs",
        "makespan_over_ideal": round(took / ideal, 3),
        "overhead_per_job_s": round(per_job, 2),
        "overhead_once_s": round(once, 1),
        "queue_s": queue,
        "makespan_over_ideal_65_chains_60s": round(1 + per_job / 60 + (once + queue) / (waves(65) * 60), 3),
        "load_average": round(os.getloadavg()[1], 1),
    }


def run(whole: int | None = None) -> list[dict] | dict:
    """Run the benchmark; `reference` is the ideal makespan, so `ratio` cannot exceed 1.

    Args:
        whole: GPUs of one run of full length in allocations, in place of the short ones.
    """
    if whole:
        return _whole(whole)
    local = ["--profile", str(ROOT / "profiles" / "local-gpu"), "--cores", "8", "--resources", f"gpu={GPUS}"]
    took = makespan(65, 2, *local)
    rows = [figures("one machine, leases", 65, 2, took, took / waves(65) - 2, 0)]
    if os.geteuid() == 0 and shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin"):
        from tests.cluster.slurm import NoCluster, Slurm

        slurm = ["--profile", str(ROOT / "profiles" / "slurm"), "--slurm-init-seconds-before-status-checks", "5"]
        few, many, seconds = 8, 20, 5
        try:
            with Slurm():
                short, long = (makespan(chains, seconds, *slurm) for chains in (few, many))
                held = ["--profile", str(ROOT / "profiles" / "allocations")]
                some, more = (makespan(chains, seconds, *held, queued=10) for chains in (few, many))
        except NoCluster as reason:
            print(f"fanout: no SLURM ({reason})", file=sys.stderr)
        else:
            per_job = (long - short) / (waves(many) - waves(few)) - seconds
            once = max(0, short - waves(few) * (seconds + per_job))
            rows.append(figures("SLURM", many, seconds, long, per_job, once))
            per_job = (more - some) / (waves(many) - waves(few)) - seconds
            once = max(0, some - 10 - waves(few) * (seconds + per_job))
            rows.append(figures("SLURM, two allocations", many, seconds, more, per_job, once, QUEUE))
    return rows


def _whole(gpus: int) -> dict:
    """65 chains of 60-second jobs in two allocations that wait in the queue, on a test cluster of so many GPUs."""
    from tests.cluster.slurm import Slurm

    ideal = waves(65, gpus) * 60
    with Slurm(gpus=gpus // 2):
        took = makespan(65, 60, "--profile", str(ROOT / "profiles/allocations"), queued=QUEUE, gpus=gpus)
    return {
        "name": "fanout (SLURM, two allocations, whole)",
        "unit": "s",
        "ours": round(took, 1),
        "reference": ideal,
        "ratio": round(ideal / took, 3),
        "jobs": f"195 jobs of 60 s on {gpus} GPUs",
        "makespan_over_ideal": round(took / ideal, 3),
        "queue_s": QUEUE,
        "load_average": round(os.getloadavg()[2], 1),
    }
