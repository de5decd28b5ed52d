"""The shrunken toy world, all stages, on a real SLURM: disturbed, and still equal to an undisturbed run on one machine.

One job is cancelled, one requeued, and all that run at the time are preempted.
"""

import filecmp
import json
import re
import shutil
import subprocess
import sys

import pytest
from cgddi.watch import status
from cgddi.watch.dag import ask_snakemake
from cgddi.watch.repair import cluster_jobs

from tests.cluster.running import FAST, ROOT, Run, until
from tests.workflow.conftest import RUN, small_world

GPU_RULES = ("healthy", "embedding", "lora", "semantic", "classify")
URGENT = ["sbatch", "--partition=night", "--nodes=2", "--gpus-per-node=2", "--output=/dev/null", "--wrap"]
"""Someone's urgent job takes all GPUs: SLURM puts what runs on them back into the queue."""
ONE_THREAD = ["--set-threads", *(f"{rule}=1" for rule in (*GPU_RULES, "audit"))]
"""As profiles/local-cpu has it: sums over another number of threads differ in the last bit."""


@pytest.mark.slow
def test_toy_world_on_slurm_equals_a_local_run(cluster, tmp_path, monkeypatch):
    local, queued = small_world(tmp_path / "local"), small_world(tmp_path / "queued")
    # The cluster's GPUs are not real: runs must not see those they were given.
    (tmp_path / "hide").write_text("#!/bin/sh\necho export CUDA_VISIBLE_DEVICES=-1\n")
    (tmp_path / "srun").write_text(f'#!/bin/sh\nexec {shutil.which("srun")} --task-prolog={tmp_path}/hide "$@"\n')
    for name in ("hide", "srun"):
        (tmp_path / name).chmod(0o755)
    profile = ["--profile", str(ROOT / "profiles/slurm"), *FAST, "--jobs", "4", *ONE_THREAD]
    profile += ["--precommand", f"export PATH={tmp_path}:$PATH"]
    undisturbed = Run(local, "-s", str(ROOT / "Snakefile"), *RUN, "--cores", "2")
    run = Run(queued, "-s", str(ROOT / "Snakefile"), "--configfile", "config.yaml", *profile)
    try:
        disturbances = (
            ("rule_embedding", ["scancel"]),
            ("rule_lora", ["scontrol", "requeue"]),
            ("rule_semantic", [*URGENT, "sleep 5"]),
        )
        for rule, command in disturbances:
            number = until(
                lambda rule=rule: [
                    job["id"]
                    for job in cluster_jobs(queued)
                    if job["what"].startswith(rule) and job["state"] == "RUNNING"
                ][:1],
                lambda rule=rule: f"no {rule} runs:\n{run.log[-3000:]}",
                600,
            )
            subprocess.run(command if command[0] == "sbatch" else [*command, *number], check=True, cwd=tmp_path)
        assert run.finish(1500) == 0, run.log[-6000:]
        assert re.search(r"^\[..:..:..\] \d+/\d+ done \| running \d+ \w+", run.log, re.M)
        assert re.search(r"^(\d+) of \1 done in ", run.log, re.M)
        assert undisturbed.finish(900) == 0, undisturbed.log[-6000:]
    finally:
        run.end()
        undisturbed.end()

    jobs = [job for job in cluster.jobs(every=True) if job["WorkDir"] == str(queued)]
    assert sum(int(job["Restarts"]) for job in jobs) >= 2  # by the requeue, and by the preemption
    rule_of = {job["JobId"]: job["Comment"].removeprefix("rule_").split("_wildcards_")[0] for job in jobs}
    asked = {rule_of[job["JobId"]] for job in jobs if "gres:gpu" in job.get("TresPerJob", "")}
    assert asked == {*GPU_RULES, "audit"}
    without = {rule_of[job["JobId"]] for job in jobs if "TresPerJob" not in job}
    assert {"canvases", "lesion_mapped", "index", "fairness", "report", "audit"} <= without
    assert not {"masks", "split", "review"} & set(rule_of.values())

    monkeypatch.chdir(queued)
    plan, planned = ask_snakemake(["config.yaml"])
    assert [(job.name, why) for job, state, why in status.survey(planned, queued) if state != "done"] == []
    results = plan.config.results
    names = {str(path.relative_to(local)) for path in (local / results).rglob("*.jsonl") if "logs" not in path.parts}
    names |= {str(path.relative_to(local)) for path in (local / results).rglob("*.safetensors")}
    assert names and filecmp.cmpfiles(local, queued, names, shallow=False)[1:] == ([], [])

    done = subprocess.run(
        [sys.executable, "-m", "cgddi.cli", "cost", "--configfile", "config.yaml", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = {line["stage"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert all(lines[stage]["measured"] > 0 and lines[stage]["left"] == 0 for stage in (*GPU_RULES, "audit"))
