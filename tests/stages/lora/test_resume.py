"""Killed at any step and started again, a run gives the same bytes as an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cgddi.diffusion.train import Trainer
from cgddi.diffusion.weights import write_checksummed
from cgddi.job.checkpoint import Checkpoint
from cgddi.stages.lora import train
from cgddi.stages.lora.train import train_lora
from safetensors.torch import save_file

from tests.diffusion import tiny

ROOT = Path(__file__).parents[3]
NAME = "pytorch_lora_weights.safetensors"


class Killed(BaseException):
    """Stands for kill -9: no handler runs, nothing is saved."""


def stop_at(monkeypatch, at: int, how: str) -> None:
    """Make the loop die (or be asked to leave by SIGTERM) when it has done `at` steps in this process."""
    real, count = Trainer.train_step, iter(range(1, 10**6))

    def train_step(self, step):
        found = real(self, step)
        if next(count) == at:
            if how == "kill":
                raise Killed
            os.kill(os.getpid(), signal.SIGTERM)
        return found

    monkeypatch.setattr(Trainer, "train_step", train_step)


@pytest.mark.parametrize("how", ["kill", "term"])
def test_lora_resumes_to_the_same_bytes(world, tmp_path, monkeypatch, how):
    steps = random.Random(how).sample(range(1, 4), 2)
    job = world.job(output=str(tmp_path / "lora"))
    for step in steps:
        with monkeypatch.context() as patch, pytest.raises((Killed, SystemExit)) as stopped:
            stop_at(patch, step, how)
            train_lora(job, state=tmp_path / "state")
        assert not job.output.exists(), "half a result"
        if how == "term":
            assert stopped.value.code == 143
            assert list((tmp_path / "state").glob("lora-*.safetensors"))
    train_lora(job, state=tmp_path / "state")
    for name in ("pytorch_lora_weights.safetensors", "metrics.jsonl", "record.json", "samples.png"):
        assert (job.output / name).read_bytes() == (world.root / "lora" / name).read_bytes(), name
    assert not list((tmp_path / "state").glob("lora-*.safetensors"))


@pytest.mark.parametrize("how", ["kill", "term"])
def test_embedding_resumes_to_the_same_bytes(world, tmp_path, monkeypatch, how):
    spec = tiny.spec_for("embedding", world.model, world.images, **tiny.TI)
    out, state = tmp_path / "out", tmp_path / "state"
    for step in random.Random(how).sample(range(1, 4), 2):
        with monkeypatch.context() as patch, pytest.raises((Killed, SystemExit)):
            stop_at(patch, step, how)
            tiny.train_embedding(spec, [world.root / "masks.tar"], out, state=state)
        assert not out.exists(), "half a result"
    tiny.train_embedding(spec, [world.root / "masks.tar"], out, state=state)
    for name in ("learned_embeds.safetensors", "metrics.jsonl", "record.json"):
        assert (out / name).read_bytes() == (world.embedding.parent / name).read_bytes(), name
    assert not list(state.iterdir())


def test_embedding_goes_on_from_its_checkpoint(world, tmp_path, monkeypatch):
    spec = tiny.spec_for("embedding", world.model, world.images, **tiny.TI)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 5, "kill")
        tiny.train_embedding(spec, [world.root / "masks.tar"], tmp_path / "out", state=tmp_path / "state")
    calls, used = [], {}
    real = Trainer.train_step
    monkeypatch.setattr(Trainer, "train_step", lambda self, step: calls.append(1) or real(self, step))
    tiny.train_embedding(spec, [world.root / "masks.tar"], tmp_path / "out", state=tmp_path / "state", used=used)
    assert len(calls) == 2, "the checkpoint of step 4 was not used"
    assert used == {"steps": 2}, "steps of the killed run make a rate too fast"


def test_other_settings_never_see_the_checkpoint(world, tmp_path, monkeypatch):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 5, "kill")
        train_lora(world.job(output=str(tmp_path / "a")), state=tmp_path / "state")
    job = world.job(output=str(tmp_path / "b"), learning_rate=2e-2)
    train_lora(job, state=tmp_path / "state")
    fresh = world.job(output=str(tmp_path / "c"), learning_rate=2e-2)
    train_lora(fresh)
    name = "pytorch_lora_weights.safetensors"
    assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes()


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_is_used(world, tmp_path, monkeypatch, capsys):
    job, state = world.job(output=str(tmp_path / "lora")), tmp_path / "state"
    with monkeypatch.context() as patch, pytest.raises(Killed):
        stop_at(patch, 5, "kill")
        train_lora(job, state=state)
    (latest,) = state.glob("lora-*.safetensors")
    flip(latest)
    leftover = latest.with_name(f".{latest.name}.0123456789ab.tmp")
    leftover.write_bytes(b"of a kill -9 while it was written")
    used = {}
    train_lora(job, state=state, used=used)
    assert used == {"steps": 4} and f"checkpoint {latest} is damaged and not used" in capsys.readouterr().err
    assert (job.output / NAME).read_bytes() == world.lora.read_bytes()
    assert not list(state.iterdir())


def flip(path, place=-9):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)


STATE = {"value": torch.zeros(2)}
DAMAGE = {
    "cut": (lambda latest, previous: latest.write_bytes(latest.read_bytes()[:100]), 1),
    "both": (lambda latest, previous: (flip(latest), flip(previous, 400)), None),
    "not ours": (lambda latest, previous: save_file(STATE, latest, {"facts": '{"step":2}'}), 1),
    "no step": (lambda latest, previous: write_checksummed(latest, STATE, '{"history":[]}'), 1),
    "whole": (lambda latest, previous: None, 2),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_only_whole_states_are_loaded(tmp_path, damage):
    checkpoint, (change, step) = Checkpoint(tmp_path, "lora", ["facts"]), DAMAGE[damage]
    for number in (1, 2):
        checkpoint.save({"value": torch.full((200,), float(number))}, {"step": number})
    change(checkpoint.path, checkpoint.path.with_name(f"previous-{checkpoint.path.name}"))
    found = checkpoint.load(needed=["step"])
    assert (found and found[1]["step"]) == step
    assert found is None or torch.equal(found[0]["value"], torch.full((200,), float(step)))
    assert Checkpoint(tmp_path, "lora", ["others"]).load() is None


def test_a_full_disk_costs_the_state_and_not_the_run(world, tmp_path, capsys):
    (tmp_path / "state").write_text("a file in the way")
    job = world.job(output=str(tmp_path / "lora"))
    train_lora(job, state=tmp_path / "state")
    assert capsys.readouterr().err.count("cannot be written") == 1
    assert (job.output / "pytorch_lora_weights.safetensors").read_bytes() == world.lora.read_bytes()


def test_sigterm_after_the_last_step_keeps_all_of_them(world, tmp_path, monkeypatch):
    job, state = world.job(output=str(tmp_path / "lora"), checkpoint_every=100), tmp_path / "state"
    real, handler = train.write_grid, signal.getsignal(signal.SIGTERM)

    def write_grid(path, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        real(path, *args)

    with monkeypatch.context() as patch, pytest.raises(SystemExit) as stopped:
        patch.setattr(train, "write_grid", write_grid)
        train_lora(job, state=state, logs=tmp_path / "logs/run")
    assert stopped.value.code == 143 and not (job.output / "record.json").exists()
    assert signal.getsignal(signal.SIGTERM) is handler
    monkeypatch.setattr(Trainer, "train_step", lambda *_: pytest.fail("a step was repeated"))
    train_lora(job, state=state, logs=tmp_path / "logs/run")
    lines = [(folder / "metrics.jsonl").read_text() for folder in (job.output, world.root / "lora")]
    assert lines[0] == lines[1] and not list(state.iterdir())


@pytest.mark.slow
def test_a_real_kill_9_of_the_command(world, tmp_path):
    """The command itself, killed by the kernel while it trains."""
    job = world.job(steps=40, checkpoint_every=5)
    (tmp_path / "spec.json").write_text(json.dumps(job.spec))
    argv = [sys.executable, "-m", "cgddi.cli", "lora", "--spec", tmp_path / "spec.json", "--photos", *job.photos]
    argv += ["--canvases", *job.canvases, "--embedding", job.embedding, "--threads", "1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}
    run = subprocess.Popen(
        [*argv, "--output-dir", tmp_path / "a", "--state", tmp_path / "s"], env=env, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 90
    while not list((tmp_path / "s").glob("lora-*.safetensors")):
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.05)
    run.kill()
    assert run.wait() == -9 and not (tmp_path / "a").exists()
    subprocess.run(
        [*argv, "--output-dir", tmp_path / "a", "--state", tmp_path / "s"], env=env, check=True, capture_output=True
    )
    other = world.job(output=str(tmp_path / "b"), steps=40, checkpoint_every=5)
    train_lora(other)
    name = "pytorch_lora_weights.safetensors"
    assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
