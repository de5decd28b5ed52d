"""What GPU jobs record of themselves."""

import json
import os
import time

import pytest
import torch
from cgddi.job import runtime
from cgddi.job.runtime import GpuMonitor
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


def test_a_job_is_watched_while_it_works_and_only_its_own_gpu(smi, tmp_path):
    """The mean of how busy it was, and the most memory."""
    first = tmp_path / "first"
    asked = smi(f"if [ -e {first} ]; then echo '40, 100'; else touch {first}; echo '80, 20000'; fi")
    with GpuMonitor("GPU-abc", seconds=0.02) as watch:
        time.sleep(1)
    assert 0.4 <= watch.facts["utilisation"] < 0.8 and watch.facts["device_memory_bytes"] == 20000 << 20
    assert "--id=GPU-abc" in asked.read_text()


@pytest.mark.parametrize("text", ["echo '[N/A], [N/A]'", "exit 9", "true"], ids=["slice", "error", "nothing"])
def test_a_gpu_that_does_not_answer_gives_no_figures(smi, text):
    smi(text)
    with GpuMonitor("GPU-abc", seconds=0.02) as watch:
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
    monkeypatch.setattr(runtime, "GpuMonitor", lambda device: GpuMonitor(device, seconds=0.02))
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
