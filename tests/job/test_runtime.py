"""What GPU jobs record of themselves, and the report's comparison of plan and fact."""

import json
import os
import time

import pandas as pd
import pytest
import torch
from cgddi.job import runtime
from cgddi.job.gpu_monitor import Watch
from cgddi.stages.report.usage import MARK, choose, plan_and_fact, usage
from cgddi.watch.cost import recorded


@pytest.fixture
def smi(tmp_path, monkeypatch):
    """A stand-in for `nvidia-smi` that answers with the text it is given and keeps its arguments."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def answer(text):
        (folder / "nvidia-smi").write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n{text}\n')
        (folder / "nvidia-smi").chmod(0o755)
        return tmp_path / "asked"

    return answer


def test_a_job_is_watched_while_it_works_and_only_its_own_gpu(smi):
    asked = smi("echo '80, 20000'")
    with Watch("GPU-abc", seconds=0.02) as watch:
        time.sleep(0.5)
    assert watch.facts == {"utilisation": 0.8, "device_memory_bytes": 20000 << 20}
    assert "--id=GPU-abc" in asked.read_text()


@pytest.mark.parametrize("text", ["echo '[N/A], [N/A]'", "exit 9", "true"], ids=["slice", "error", "nothing"])
def test_a_gpu_that_does_not_answer_gives_no_figures(smi, text):
    smi(text)
    with Watch("GPU-abc", seconds=0.02) as watch:
        time.sleep(0.3)
    assert watch.facts == {}


def test_a_gpu_job_logs_memory_utilisation_and_rate(smi, tmp_path, monkeypatch):
    """CUDA's answers are stood in for; what is written is what `cost` and the report read."""
    smi("echo '50, 1000'")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "NVIDIA H100")
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7_000_000_000)
    properties = type("Properties", (), {"uuid": "11-22"})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    monkeypatch.setattr(runtime, "Watch", lambda device: Watch(device, seconds=0.02))
    path = tmp_path / "logs/lora/x.metrics.jsonl"
    with runtime.usage_log(path, stage="lora") as used:
        time.sleep(0.3)
        used["steps"] = 30
    facts = json.loads(path.read_text())
    assert facts["device"] == "NVIDIA H100" and facts["peak_device_bytes"] == 7e9 and facts["utilisation"] == 0.5
    assert facts["steps_per_second"] == pytest.approx(30 / facts["seconds"], rel=0.01)
    assert "--id=GPU-11-22" in (tmp_path / "asked").read_text()
    (job,) = recorded([tmp_path])
    assert (job.stage, job.device, job.amount) == ("lora", "NVIDIA H100", 30)
    row = usage(tmp_path / "logs").iloc[0]
    assert row["peak device memory, GB"] == 7 and row["device at work, %"] == 50


def write(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def prediction(when, hours, measured):
    stages = [
        {"stage": stage, "jobs": 2, "unit": "steps", "rate": 1.0, "measured": n, "hours": h}
        for stage, h, n in zip(("lora", "semantic", "audit"), hours, measured, strict=True)
    ]
    return {"when": f"2026-01-0{when}T10:00:00+00:00", "device": "A100" if any(measured) else None, "stages": stages}


def test_the_prediction_that_is_judged_is_the_first_from_recorded_rates():
    guess, part, whole = (
        prediction(1, (1, 1, 1), (0, 0, 0)),
        prediction(2, (2, 2, 2), (1, 0, 0)),
        prediction(3, (3, 3, 3), (4, 4, 1)),
    )
    assert choose([guess, part, whole, prediction(4, (4, 4, 4), (9, 9, 9))]) is whole
    late = {**whole, "stages": [{**stage, "left": 0} for stage in whole["stages"]]}
    assert choose([late, guess, late]) is guess and choose([late]) is None
    assert choose([guess, part]) is part and choose([guess]) is guess and choose([]) is None


def test_plan_and_fact_counts_every_attempt_and_marks_default_rates(tmp_path):
    write(tmp_path / "plan.jsonl", [prediction(2, (2.0, 1.0, 0.5), (3, 0, 0))])
    line = {"device": "A100", "seconds": 3600}
    write(tmp_path / "lora/a.metrics.jsonl", [{"loss": 1.0, "step": 4}, {**line, "steps": 5}, {**line, "steps": 10}])
    write(tmp_path / "lora/b.metrics.jsonl", [{**line, "steps": 10}])
    write(tmp_path / "audit/main/tone.metrics.jsonl", [{**line, "kind": "tone"}])
    write(tmp_path / "audit/main/quality.metrics.jsonl", [{**line, "kind": "quality", "seconds": 900}])
    sentence, table = plan_and_fact(tmp_path)
    assert sentence == "Predicted on 2026-01-02 10:00 UTC, rates recorded on A100."
    table = table.set_index("stage")
    assert table.loc["lora", ["hours predicted", "hours spent", "spent / predicted"]].tolist() == [2.0, 3.0, 1.5]
    assert table.loc["semantic", "rate from"] == MARK and table.loc["semantic", "hours spent"] == 0
    assert table.loc["audit", "hours spent"] == 0.25  # only the audit that takes a GPU
    assert table.loc["together", ["jobs planned", "hours predicted", "hours spent"]].tolist() == [6, 3.5, 3.25]
    assert usage(tmp_path).set_index("stage").loc["lora", ["jobs", "steps"]].tolist() == [2, 20]
    assert plan_and_fact(tmp_path / "lora") is None and isinstance(usage(tmp_path / "none"), pd.DataFrame)
