"""`cgddi status` and `cgddi cost` on a small plan whose results are written by hand."""

import base64
import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from cgddi.core.archive import file_sha256
from cgddi.core.errors import UserError
from cgddi.core.images import encode_png
from cgddi.plan.config import load_config
from cgddi.plan.jobs import all_jobs
from cgddi.plan.plan import Plan
from cgddi.watch import cost, status
from cgddi.watch.recover import cluster_jobs

ROOT = Path(__file__).resolve().parents[2]
CONCEPTS = {"melanoma": True, "nevus": False, "acne": False}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a sheet of 3 concepts x 6 photos and its config."""
    np = pytest.importorskip("numpy")
    monkeypatch.chdir(tmp_path)
    write_sheet(CONCEPTS)
    (tmp_path / "photo.png").write_bytes(encode_png(np.full((8, 8, 3), 128, np.uint8)))
    np.save("mask.npy", np.ones((8, 8), np.uint8))
    diseases = [
        "raw,concept,slug,token",
        *(f"{name},{name},{name},<{name}>" for name in ("melanoma", "nevus", "acne", "wart")),
    ]
    (tmp_path / "diseases.csv").write_text("\n".join(diseases) + "\n")
    set_config({})
    return tmp_path


def write_sheet(concepts, later=()):
    with open("images.csv", "w", newline="") as handle:
        rows = csv.writer(handle)
        rows.writerow(["image_id", "file", "cohort", "disease", "skin_tone", "malignant", "mask"])
        for name, malignant in concepts.items():
            for k in range(6):
                tone = ("light", "medium", "dark")[k % 3]
                cohort = "later" if name in later else "here"
                rows.writerow([f"{name}{k}", "photo.png", cohort, name, tone, malignant, "mask.npy"])


def set_config(changes):
    values = {
        "results": "results",
        "images": "images.csv",
        "diseases": "diseases.csv",
        "generator_scope": "all",
        "splits": {"main": {"method": "out_of_tone", "test_tones": ["dark"]}},
        "runs": {"methods": ["baseline"], "regimes": ["real"], "seeds": [0]},
    }
    with open("config.yaml", "w") as handle:
        yaml.safe_dump({**values, **changes}, handle)


def plan():
    return Plan(load_config("config.yaml"))


def make(job, inputs=()):
    """Write a job's files as the stage would."""
    for path in job.outputs:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w") as handle:
            handle.write("x")
    if job.record:
        with open(job.record, "w") as handle:
            json.dump({"spec": json.loads(job.spec), "inputs": {path: file_sha256(path) for path in inputs}}, handle)


def finish():
    for job in all_jobs(plan()):
        make(job)


def states(folder):
    """(stage, name) -> (state, why)"""
    return {(job.stage, job.name): (state, why) for job, state, why in status.survey(plan(), folder)}


def not_done(folder):
    return {key: value for key, value in states(folder).items() if value[0] != "done"}


def test_before_the_first_run_all_is_missing_and_says_what_it_waits_for(folder):
    found = states(folder)
    assert {state for state, _ in found.values()} == {"missing"}
    assert found["masks", "here nevus.000"] == ("missing", "not made yet")
    assert found["lora", "nevus (all)"] == ("missing", "waits for 1 masks, 1 canvases, 1 embedding")


def test_after_a_finished_run_all_is_done(folder, capsys):
    finish()
    assert not not_done(folder)
    assert status.main(["--configfile", "config.yaml"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("results: 42 done of 42 jobs\n") and "stale" not in text


def test_a_changed_setting_makes_its_stage_and_what_follows_stale(folder):
    finish()
    set_config({"lora": {"steps": 9}})
    found = not_done(folder)
    steps = type(plan().config).model_fields["lora"].default.steps
    assert found.pop(("lora", "nevus (all)")) == ("stale", f"steps: {steps} -> 9")
    assert found.pop(("semantic", "nevus on here (all)")) == ("stale", "waits for 1 lora")
    assert {stage for stage, _ in found} == {"lora", "semantic", "index", "audit", "classify", "fairness", "report"}
    assert {state for state, _ in found.values()} == {"stale"}


def test_a_new_disease_is_missing_and_the_old_ones_stay_done(folder):
    finish()
    write_sheet({**CONCEPTS, "wart": False}, later=["wart"])
    found = not_done(folder)
    old = {key for key in found if not any(word in key[1] for word in ("wart", "later"))}
    assert {stage for stage, _ in old} == {"index", "audit", "classify", "fairness", "report"}
    assert found["masks", "later wart.000"] == ("missing", "not made yet")
    assert found["semantic", "wart on here (all)"] == ("missing", "waits for 1 embedding, 1 lora")
    assert found["index", "main"][0] == "stale" and "masks" in found["index", "main"][1]


def test_photos_of_a_concept_that_come_or_go_are_counted(folder):
    finish()
    lines = (folder / "images.csv").read_text().splitlines()
    (folder / "images.csv").write_text("\n".join(line for line in lines if not line.startswith("nevus5")) + "\n")
    assert not_done(folder)["masks", "here nevus.000"] == ("stale", "photos 1 removed")


def test_an_input_with_new_bytes_is_seen_and_one_only_touched_is_not(folder):
    finish()
    photo = folder / "photo.png"
    for job in all_jobs(plan()):
        if job.stage == "masks" and job.concept == "acne":
            make(job, inputs=["photo.png"])
    later = time.time() + 60
    os.utime(photo, (later, later))
    assert not not_done(folder)
    photo.write_bytes(photo.read_bytes() + b" ")
    os.utime(photo, (later, later))
    assert not_done(folder)["masks", "here acne.000"] == ("stale", "photo.png changed")


def test_deleted_and_broken_results_are_seen(folder):
    finish()
    jobs = {(job.stage, job.concept): job for job in all_jobs(plan())}
    os.unlink(jobs["semantic", "acne"].outputs[1])
    with open(jobs["lora", "nevus"].record, "w") as handle:
        handle.write("{")
    found = not_done(folder)
    assert found["semantic", "acne on here (all)"] == ("missing", "acne.tar was deleted")
    assert found["lora", "nevus (all)"][0] == "stale" and "is not a record" in found["lora", "nevus (all)"][1]


def test_running_queued_and_interrupted_jobs(folder, monkeypatch, capsys):
    """Snakemake's own markers, with and without a live run; long names are cut into folders as Snakemake does."""
    finish()
    jobs = {(job.stage, job.concept): job for job in all_jobs(plan())}
    for concept, number in (("acne", "7"), ("nevus", "8"), ("melanoma", None)):
        code = base64.urlsafe_b64encode(jobs["lora", concept].outputs[0].encode()).decode()
        place = folder / ".snakemake" / "incomplete" / f"@{code[:30]}" / code[30:]
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(json.dumps({"external_jobid": number}))
    monkeypatch.setattr(
        status, "cluster_jobs", lambda _: [{"id": "7", "state": "RUNNING"}, {"id": "8", "state": "PENDING"}]
    )
    found = states(folder)
    assert found["lora", "acne (all)"] == ("running", "cluster job 7")
    assert found["lora", "nevus (all)"] == ("queued", "cluster job 8")
    assert found["lora", "melanoma (all)"] == ("missing", "its run was interrupted")
    monkeypatch.setattr(status, "controllers", lambda _: [1])
    assert states(folder)["lora", "melanoma (all)"] == ("running", "Snakemake is at it")
    assert status.main(["--configfile", "config.yaml"]) == 0
    assert "running  lora: cluster job [acne (all): 7]" in capsys.readouterr().out


def test_a_cluster_that_does_not_answer_is_told_and_no_error(folder, monkeypatch):
    """squeue fails: of jobs it should know, the last word stands; a machine outside any cluster has none."""
    finish()
    job = next(job for job in all_jobs(plan()) if job.stage == "lora")
    marker = folder / ".snakemake" / "incomplete" / base64.urlsafe_b64encode(job.outputs[0].encode()).decode()
    marker.parent.mkdir(parents=True)
    marker.write_text(json.dumps({"external_jobid": "7"}))
    squeue = folder / "bin" / "squeue"
    squeue.parent.mkdir()
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")

    def answer(text, code):
        squeue.write_text(f"#!/bin/sh\necho '{text}' >&2\nexit {code}\n")
        squeue.chmod(0o755)

    answer("slurm_load_jobs error: Unable to contact slurm controller", 1)
    assert states(folder)["lora", job.name] == ("running", "as far as known: the cluster does not answer")
    with pytest.raises(UserError, match="squeue failed: slurm_load_jobs"):
        cluster_jobs(folder)
    answer("squeue: fatal: Could not establish a configuration source", 1)
    assert states(folder)["lora", job.name] == ("missing", "its run was interrupted")


def test_status_of_one_concept_and_as_json(folder, capsys):
    assert status.main(["--configfile", "config.yaml", "--concept", "nevus", "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {row["concept"] for row in rows} == {"nevus"} and {"masks", "lora"} < {row["stage"] for row in rows}
    with pytest.raises(UserError, match="--concept x: not in the disease sheet"):
        status.main(["--configfile", "config.yaml", "--concept", "x"])


def test_explain_names_each_difference():
    made = {"settings": {"steps": 5, "inner": {"a": 1}}, "source": "aa", "versions": {"torch": "2.1"}, "seed": 1}
    now = {"settings": {"steps": 6, "inner": {"a": 2}}, "source": "bb", "versions": {"torch": "2.2"}, "seed": 1}
    assert status.explain(made, now) == [
        "inner.a: 1 -> 2",
        "steps: 5 -> 6",
        "the stage's code changed",
        'versions.torch: "2.1" -> "2.2"',
    ]
    rows = [{"image_id": "a", "mask": None}, {"image_id": "b", "mask": None}]
    new = [{"image_id": "a", "mask": "m"}, {"image_id": "c", "mask": None}]
    assert status.explain({"rows": rows}, {"rows": new}) == ["photos 1 added, 1 removed, 1 changed"]


def metrics(folder, stage, lines):
    path = folder / "results" / "logs" / stage / "x.metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))


def test_cost_multiplies_recorded_rates_with_the_plans_work(folder, capsys):
    set_config({"lora": {"steps": 100}, "embedding": {"steps": 50}})
    finish()
    os.unlink("results/lora/all/nevus/record.json")
    gpu = {"device": "NVIDIA A100"}
    metrics(
        folder,
        "lora",
        [
            {"stage": "lora", "steps": 100, "seconds": 400, **gpu},
            {"stage": "lora", "steps": 50, "seconds": 150, **gpu},  # shorter run, 3 s a step
            {"stage": "lora", "steps": 10, "seconds": 20, **gpu},
            {"stage": "lora", "seconds": 9999, **gpu},  # died before it counted its steps
            {"stage": "lora", "steps": 1, "seconds": 30, "device": "cpu"},  # another kind of device
            '{"loss": 0.5, "step": 10}',
            "{half a line",
        ],
    )
    metrics(folder, "classify", [{"stage": "classify", "seconds": 7200, **gpu}])
    assert cost.main(["--configfile", "config.yaml", "--json"]) == 0
    lines = {row["stage"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert lines["lora"] == {
        "stage": "lora", "jobs": 3, "left": 1, "unit": "steps", "rate": 3.0, "measured": 3,
        "hours": 3 * 300 / 3600, "hours_left": 300 / 3600, "device": "NVIDIA A100",
    }  # fmt: skip
    assert lines["classify"]["hours"] == 2 and lines["classify"]["left"] == 1  # the adapter it rests on is gone
    assert lines["embedding"]["measured"] == 0
    assert lines["embedding"]["hours"] == pytest.approx(
        3 * 50 * 40 * 60 / 500 / 3600
    )  # the paper's 40 minutes, by its steps
    assert cost.main(["--configfile", "config.yaml", "--gpus", "2"]) == 0
    text = capsys.readouterr().out
    left = sum(line["hours_left"] for line in lines.values()) / 2
    assert f"at least {left:.2f} h on 2 GPU(s)" in text
    assert "* No job has finished yet: healthy, embedding, semantic, audit." in text
    assert re.search(r"^embedding .* 4\.8 s/step \*", text, re.M) and re.search(r"^lora .* 3 s/step \(3\)", text, re.M)
    assert cost.main(["--configfile", "config.yaml", "--json", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[2])["rate"] == 30
    with pytest.raises(UserError, match="Recorded devices: NVIDIA A100, cpu"):
        cost.main(["--configfile", "config.yaml", "--device", "H100"])


def test_the_listed_jobs_are_those_that_snakemake_plans(folder):
    """Same files, same specs: what `status` compares with is what a run would make."""
    command = [sys.executable, "-m", "snakemake", "-s", str(ROOT / "Snakefile"), "--configfile", "config.yaml", "-q"]
    summary = subprocess.run([*command, "--summary"], capture_output=True, text=True, check=True).stdout
    files = {line.split("\t")[0] for line in summary.splitlines()[1:] if "\t" in line}
    jobs = all_jobs(plan())
    listed = {path for job in jobs for path in job.outputs}
    assert listed <= files
    extra = {path.removeprefix("results/").split("/")[0] for path in files - listed}
    assert extra == {"splits", "review", "fairness"}  # the last: tables beside the summary
    shown = subprocess.run(
        [*command[:-1], "-n", "-p", "--cores", "1"], capture_output=True, text=True, check=True
    ).stdout
    assert [job.name for job in jobs if job.spec not in shown] == []
