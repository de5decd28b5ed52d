"""A classifier that is killed at any step and started again gives the bytes of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from cgddi.job import checkpoint
from cgddi.stages.classify import train

from tests.stages.classify.test_runs import NET, classify, command, place  # noqa: F401 (a fixture)

FILES = ("predictions.csv", "weights.safetensors", "record.json")
NETS = {"baseline": {"training": NET}, "patchalign": {"training": {**NET, "epochs": 1}}}


class Killed(BaseException):
    """Stands for kill -9: no handler runs, nothing is saved."""


@pytest.fixture
def noisy(monkeypatch):
    """Pictures with noise of torch's global generator, as dropout draws from it."""
    real = train.augment
    monkeypatch.setattr(train, "augment", lambda *args: (views := real(*args)) + 0.1 * torch.randn_like(views))


def stop_at(monkeypatch, at, how):
    """Make the run die, or be asked to leave by SIGTERM, at its `at`-th step from now."""
    real, count = train.Losses.forward, iter(range(1, 10**6))

    def forward(self, *args):
        if next(count) == at:
            if how == "kill":
                raise Killed
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, *args)

    monkeypatch.setattr(train.Losses, "forward", forward)


@pytest.mark.parametrize(("how", "method"), [("kill", "baseline"), ("term", "patchalign")])
def test_a_classifier_resumes_to_the_same_bytes(place, tmp_path, monkeypatch, noisy, method, how):  # noqa: F811
    """12 steps of two epochs; stopped in the first, in the second and where an epoch ends."""
    monkeypatch.setattr(checkpoint, "SECONDS", 0 if how == "kill" else 1e9)
    state = tmp_path / "state"
    classify(place, tmp_path / "whole", "synthetic", method, **NETS[method])
    stops = (5, 3, 2) if method == "baseline" else (2, 2, 1)
    for at in stops:
        with monkeypatch.context() as patch, pytest.raises((Killed, SystemExit)) as stopped:
            stop_at(patch, at, how)
            classify(place, tmp_path / "out", "synthetic", method, state=state, **NETS[method])
        assert how == "kill" or stopped.value.code == 143
        assert not (tmp_path / "out/record.json").exists() and list(state.glob("classify-*.safetensors"))
    calls, real = [], train.Losses.forward
    monkeypatch.setattr(train.Losses, "forward", lambda *args: calls.append(1) or real(*args))
    classify(place, tmp_path / "out", "synthetic", method, state=state, **NETS[method])
    lost = len(stops) if how == "kill" else 0  # a step that was under way
    assert len(calls) == (12 if method == "baseline" else 6) - sum(stops) + lost, "it did not go on where it was"
    for name in FILES:
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not list(state.iterdir())


def test_a_state_comes_back_as_it_was(tmp_path):
    kept = checkpoint.Checkpoint(tmp_path, "any", ["facts"])
    value = {0: {"step": torch.tensor(3.0), "on": torch.tensor([True, False])}, "best": [-float("inf"), 0.1], "x": None}
    with kept.kept(lambda: value, seconds=0) as look:
        look()
    found = checkpoint.Checkpoint(tmp_path, "any", ["facts"]).take_up()
    assert found[0]["step"].equal(value[0]["step"]) and found[0]["on"].equal(value[0]["on"])
    assert found["best"] == value["best"] and found["x"] is None and list(found) == [0, "best", "x"]
    assert checkpoint.Checkpoint(tmp_path, "any", ["others"]).take_up() is None


def test_an_optimizers_state_lies_in_memory_as_its_parameters_do():
    """Fused Adam walks through both alike; a state laid out otherwise would be mixed up silently."""
    torch.manual_seed(0)
    nets = [torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    first, second = (torch.optim.Adam(net.parameters(), fused=True) for net in nets)
    x = torch.randn(2, 3, 8, 8)

    def step(net, optimizer):
        optimizer.zero_grad()
        net(x).square().sum().backward()
        optimizer.step()

    step(nets[0], first)
    nets[1].load_state_dict(nets[0].state_dict())
    tensors = {}
    packed = checkpoint._pack(first.state_dict(), tensors)
    flat = {
        name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()
    }  # as a file holds them
    checkpoint.restore_optimizer(second, checkpoint._unpack(packed, flat))
    for net, optimizer in zip(nets, (first, second), strict=True):
        step(net, optimizer)
    assert torch.equal(nets[0].weight, nets[1].weight)


def own_processes(spec):
    """Pids of the processes that work on a spec."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if spec in (entry / "cmdline").read_text().split("\0"):
                found.append(int(entry.name))
    return found


@pytest.mark.slow
def test_two_processes_end_with_their_launcher_and_go_on_where_they_were(place, tmp_path):  # noqa: F811
    """SIGTERM to the command that started them, after the first epoch of four: all are gone, and its state is there."""
    settings = {"training": {**NET, "epochs": 4}, "num_processes": 2, "images_per_epoch": 320}
    words = command(place, tmp_path / "out", "synthetic", state=tmp_path / "state", **settings)
    spec = words[words.index("--spec") + 1]
    with subprocess.Popen([sys.executable, "-m", "cgddi.cli", "classify", *words], stderr=subprocess.DEVNULL) as run:
        while not list((tmp_path / "state").glob("classify-*.safetensors")):
            assert run.poll() is None
            time.sleep(0.02)
        assert len(own_processes(spec)) >= 3
        run.terminate()
        assert run.wait(120) == 143
    assert not own_processes(spec) and list((tmp_path / "state").glob("classify-*.safetensors"))
    assert not (tmp_path / "out/record.json").exists()
    _, record = classify(place, tmp_path / "out", "synthetic", state=tmp_path / "state", **settings)
    used = json.loads((tmp_path / "out/run.metrics.jsonl").read_text().splitlines()[-1])
    assert len(record["history"]) == 4 and used["processes"] == 2
    assert used["steps"] in (20, 40, 60), "it took those of whole epochs, and not of all"
