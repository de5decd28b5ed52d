"""`cgddi status` and `cgddi why`: states that a plan alone does not tell - running, queued, failed, interrupted - and the words."""

import base64
import json
import os
import re
import subprocess
import sys

import pytest
from cgddi.core.errors import UserError
from cgddi.job.slurm import refused_file
from cgddi.watch import status
from cgddi.watch.repair import cluster_jobs
from cgddi.watch.why import differences

from tests.watch.world import CONFIG, jobs, later, set_config, write_world

ADAPTER = "results/lora/all/{}/pytorch_lora_weights.safetensors"
SAMPLES = "results/semantic/all/here/{}.tar"


def states(folder):
    """(rule, concept) -> (state, why)"""
    return {(job.rule, job.concept): (state, why) for job, state, why in status.survey(jobs(), folder)}


def mark(folder, path, number):
    """Snakemake's marker of a job that has begun; long names are cut into folders as Snakemake does."""
    code = base64.urlsafe_b64encode(path.encode()).decode()
    place = folder / ".snakemake" / "incomplete" / f"@{code[:30]}" / code[30:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(json.dumps({"external_jobid": number}))


def begin(folder, **numbers):
    """Adapters under way: begun, by a cluster job or on this machine, and not written yet."""
    set_config(lora={"steps": 9})
    for concept, number in numbers.items():
        mark(folder, ADAPTER.format(concept), number)
        os.unlink(ADAPTER.format(concept))


def test_before_the_first_run_all_is_missing_and_says_what_it_waits_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_world()
    found = states(tmp_path)
    assert {state for state, _ in found.values()} == {"missing"}
    assert found["masks", "nevus"] == ("missing", "not made yet")
    assert found["lora", "nevus"] == ("missing", "waits for 1 canvases, 1 embedding, 1 masks")


def test_what_a_person_sees_after_a_run_and_after_a_change(world, capsys):
    count = len(jobs())
    assert status.main([*CONFIG]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"results: {count} done of {count} jobs; snakemake would run 0\n") and "stale" not in text
    assert re.search(r"^nevus +done +done +done +done +done +done$", text, re.M)
    set_config(semantic={"strength": 0.5})
    assert status.main([*CONFIG]) == 0
    text = capsys.readouterr().out
    assert text.startswith(f"results: {count - 12} done, 12 stale of {count} jobs; snakemake would run 12\n")
    assert re.search(r"^stale +semantic: strength: 0.725 -> 0.5 \[samples of acne on here \(all\); ", text, re.M)
    assert "pooled: " in text and re.search(r"audit .*4 stale", text)


def test_one_concept_as_json_and_an_unknown_one(world, capsys):
    assert status.main([*CONFIG, "--concept", "nevus", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["concept"] for row in rows} == {"nevus"} and {row["state"] for row in rows} == {"done"}
    assert len(rows) == 6  # masks, healthy, lesions, token, adapter, samples
    with pytest.raises(UserError, match="--concept x: not in the disease sheet"):
        status.main([*CONFIG, "--concept", "x"])


def test_running_queued_and_interrupted_jobs(world, monkeypatch, capsys):
    begin(world, acne="7", nevus="8", melanoma=None)
    queue = [
        {"id": "7", "state": "RUNNING", "reason": "None", "what": "rule_lora_wildcards_all_acne"},
        {"id": "8", "state": "PENDING", "reason": "PartitionTimeLimit", "what": "rule_lora_wildcards_all_nevus"},
    ]
    monkeypatch.setattr(status, "cluster_jobs", lambda _: queue)
    part = base64.urlsafe_b64encode(b"results/embedding/all/acne/learned_embeds.safetensors").decode()
    (world / ".snakemake" / "incomplete" / part).write_text("{}")  # begun again, and written in part
    mark(world, ADAPTER.format("nevus"), None)  # noted anew by the job itself, on its node
    os.unlink(SAMPLES.format("nevus"))
    queue.append(
        {"id": "9", "state": "PENDING", "reason": "BeginTime", "what": "rule_semantic_wildcards_all_here_nevus"}
    )
    found = states(world)
    assert found["embedding", "acne"] == ("missing", "its run was interrupted")
    assert found["lora", "acne"] == ("running", "cluster job 7")
    assert found["lora", "nevus"] == ("queued", "SLURM says PartitionTimeLimit: cluster job 8")
    said = ("queued", "SLURM says BeginTime: cluster job 9")
    assert found["semantic", "nevus"] == said, "preempted: its note is gone with it"
    assert found["lora", "melanoma"] == ("missing", "its run was interrupted")
    monkeypatch.setattr(status, "controllers", lambda _: [1])
    assert states(world)["lora", "melanoma"] == ("running", "Snakemake is at it")
    assert status.main([*CONFIG]) == 0
    text = capsys.readouterr().out
    assert "running  lora: cluster job [adapter of acne (all): 7]" in text
    assert "queued   lora: SLURM says PartitionTimeLimit: cluster job [adapter of nevus (all): 8]" in text


def test_a_cluster_that_does_not_answer_is_told_and_no_error(world, monkeypatch):
    """squeue fails: of jobs it should know, the last word stands; a machine outside any cluster has none."""
    begin(world, acne="7")
    squeue = world / "bin" / "squeue"
    squeue.parent.mkdir()
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")

    def answer(text, code):
        squeue.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit {code}\n")
        squeue.chmod(0o755)

    answer("slurm_load_jobs error: Unable to contact slurm controller", 1)
    assert states(world)["lora", "acne"] == ("running", "as far as known: the cluster does not answer")
    with pytest.raises(UserError, match="squeue failed: slurm_load_jobs"):
        cluster_jobs(world)
    answer("squeue: fatal: Could not establish a configuration source", 1)
    assert states(world)["lora", "acne"] == ("missing", "its run was interrupted")


def test_a_job_that_slurm_refuses_is_queued_also_before_any_other_runs(world, monkeypatch):
    os.unlink(ADAPTER.format("acne"))
    set_config(lora={"rank": 3})
    note = refused_file(world, "rule_lora_wildcards_all_acne")
    note.parent.mkdir(parents=True)
    note.write_text("sbatch: error: AssocMaxSubmitJobLimit")
    assert states(world)["lora", "acne"][0] == "missing", "what a dead run left"
    monkeypatch.setattr(status, "controllers", lambda _: [1])
    said = "SLURM takes no more jobs for now, and is asked again: sbatch: error: AssocMaxSubmitJobLimit"
    assert states(world)["lora", "acne"] == ("queued", said)


def test_a_job_that_waits_for_an_allocation_is_queued(world, monkeypatch):
    begin(world, acne="17", nevus="18")
    for state, number, concept in (("waiting", "17", "acne"), ("running", "18.node-1-abc", "nevus")):
        (world / ".snakemake/pool" / state).mkdir(parents=True)
        job = {"comment": f"rule_lora_wildcards_all_{concept}"}
        (world / ".snakemake/pool" / state / number).write_text(json.dumps(job))
    monkeypatch.setattr(status, "cluster_jobs", lambda _: [])
    monkeypatch.setattr(status, "controllers", lambda _: [1])
    assert states(world)["lora", "acne"][0] == "queued" and "allocation" in states(world)["lora", "acne"][1]
    assert states(world)["lora", "nevus"] == ("running", "Snakemake is at it")


def test_a_failure_is_told_by_its_log_or_by_slurm(world):
    """A failed run leaves a log that is newer than the benchmark of the last good run; out of memory only SLURM knows."""
    for concept in ("acne", "nevus", "melanoma"):
        set_config(lora={"steps": 9})
        os.unlink(ADAPTER.format(concept))
        log = world / f"results/logs/lora/all/{concept}.log"
        log.write_text("" if concept == "nevus" else "step 5\rstep 6\rcgddi lora: the loss is NaN.\n")
        later(log)
    slurm = world / ".snakemake/slurm_logs/rule_lora/all_melanoma"
    slurm.mkdir(parents=True)
    (slurm / "7.log").write_text("building\nslurmstepd: error: Detected 1 oom_kill event\ngoodbye\n")
    later(slurm / "7.log", 120)
    before = world / ".snakemake/slurm_logs/rule_lora/all_acne/6.log"  # of an earlier try, which ended otherwise
    before.parent.mkdir()
    before.write_text("slurmstepd: error: Detected 1 oom_kill event\n")
    found = states(world)
    assert found["lora", "acne"] == ("failed", "the loss is NaN.")
    assert found["lora", "nevus"] == ("failed", "it ended without a word: results/logs/lora/all/nevus.log says nothing")
    assert found["lora", "melanoma"] == ("failed", "slurmstepd: error: Detected 1 oom_kill event")
    assert found["semantic", "acne"][0] == "stale"


def test_snakemake_writes_a_benchmark_after_a_success_only(tmp_path):
    """What `failed` stands on, in Snakemake itself: a run that succeeds, then one that fails."""
    (tmp_path / "Snakefile").write_text(
        """
rule job:
    output: "out"
    log: "job.log"
    benchmark: "job.tsv"
    shell: "echo hello >{log}; test ! -e fail && touch {output}"
"""
    )
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--quiet", "all"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    log, benchmark = tmp_path / "job.log", tmp_path / "job.tsv"
    assert benchmark.stat().st_mtime >= log.stat().st_mtime
    (tmp_path / "fail").touch()
    (tmp_path / "out").unlink()
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode
    assert benchmark.stat().st_mtime < log.stat().st_mtime and not list((tmp_path / ".snakemake/incomplete").iterdir())


def test_a_deleted_result_that_nothing_needs_and_a_broken_record_are_not_planned(world, capsys):
    os.unlink(ADAPTER.format("nevus"))
    assert states(world)["lora", "nevus"] == (
        "missing",
        "pytorch_lora_weights.safetensors was deleted; nothing left to do needs it",
    )
    assert status.main([*CONFIG]) == 0
    assert re.match(r"results: \d+ done, 1 missing of \d+ jobs; snakemake would run 0\n", capsys.readouterr().out)


def test_a_mistake_in_the_config_is_told_with_its_file(world):
    set_config(lorra={"rank": 3})
    with pytest.raises(UserError, match=r"config\.yaml.*lorra"):
        status.main([*CONFIG])
    with pytest.raises(UserError, match=r"nosuch\.yaml: no such file"):
        status.main(["--configfile", "nosuch.yaml"])


def test_a_closed_pipe_is_quiet(world):
    """`cgddi status | head -1`, where head has ended before status writes."""
    environment = {**os.environ, "PYTHONPATH": str(status.Path(status.__file__).parents[2])}
    command = f"{sys.executable} -m cgddi.cli status {' '.join(CONFIG)} | true"
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"], capture_output=True, text=True, env=environment
    )
    assert done.stderr == "" and done.returncode == 141


def test_each_difference_is_a_line():
    made = {"settings": {"steps": 5, "inner": {"a": 1}}, "revision": 1, "seed": 1, "old": 2}
    now = {"settings": {"steps": 6, "inner": {"a": 2}}, "revision": 2, "seed": 1, "new": True}
    assert differences(made, now) == [
        "new: new, true",
        "old: 2 -> gone",
        "revision: 1 -> 2",
        "inner.a: 1 -> 2",
        "steps: 5 -> 6",
    ]
    rows = [{"image_id": name, "tone": "dark"} for name in "abcde"]
    moved = [{"image_id": name, "tone": "light" if name in "ab" else "dark"} for name in "abcf"]
    assert differences({"rows": rows}, {"rows": moved}) == [
        "rows: 1 added (f)",
        "rows: 2 removed (d, e)",
        'rows.a.tone: "dark" -> "light"',
        'rows.b.tone: "dark" -> "light"',
    ]
    light = [{"image_id": name, "tone": "light"} for name in "abcde"]
    assert differences({"rows": rows}, {"rows": light}) == ["rows: 5 changed (a, b, c, ...)"]
    few = differences({"rows": rows}, {"rows": light[:3] + rows[3:]})
    assert few == [f'rows.{name}.tone: "dark" -> "light"' for name in "abc"]
    assert differences({"images": ["a", "b"]}, {"images": ["b", "a"]}) == ["images: in another order"]
    assert differences({"blocks": [1, 2]}, {"blocks": [2]}) == ["blocks: [1, 2] -> [2]"]
