"""`num_processes`: one training shared by several processes, started as the rule starts it, here on the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cgddi.cli import main
from cgddi.diffusion.adapters import read_adapter
from cgddi.diffusion.tokens import read_embedding
from cgddi.stages.lora.train import train_lora

from tests.diffusion import tiny

NAME = "pytorch_lora_weights.safetensors"
COUNTS = {"instances": 4, "priors_per_step": 2}


def command(world, output: Path, **settings) -> list[str]:
    """The command of an adapter's job by two processes."""
    job = world.job(**{**COUNTS, "num_processes": 2, **settings})
    spec = output.with_suffix(".json")
    spec.write_text(json.dumps(job.spec))
    files = {"photos": world.root / "masks.tar", "canvases": world.root / "canvases.tar", "embedding": job.embedding}
    options = {"spec": spec, **files, "output-dir": output, "state": f"{output}.state", "threads": 1}
    options["metrics"] = f"{output}.metrics.jsonl"
    return ["lora", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


@pytest.mark.slow
def test_two_processes_learn_what_one_does_write_once_and_go_on_after_sigterm(world, tmp_path):
    more = {"steps": 40, "checkpoint_every": 5}
    train_lora(world.job(output=str(tmp_path / "one"), **COUNTS, **more))
    assert main(command(world, tmp_path / "two", **more)) == 0
    one, two = (read_adapter(tmp_path / name / NAME) for name in ("one", "two"))
    mine, theirs = (torch.cat([adapter.up[n].flatten() for n in sorted(one.up)]) for adapter in (one, two))
    assert float((mine - theirs).norm() / mine.norm()) < 1e-2
    assert (tmp_path / "two/metrics.jsonl").read_text().count("\n") == 20
    (used,) = map(json.loads, (tmp_path / "two.metrics.jsonl").read_text().splitlines())
    assert used["stage"] == "lora" and used["steps"] == 40

    again = command(world, tmp_path / "again", **more)
    with subprocess.Popen([sys.executable, "-m", "cgddi.cli", *again], stderr=subprocess.DEVNULL) as run:
        while not list((tmp_path / "again.state").glob("lora-*.safetensors")):
            assert run.poll() is None
            time.sleep(0.02)
        run.terminate()
        assert run.wait(120) == 143
    assert not (tmp_path / "again/record.json").exists()
    assert main(again) == 0
    used = json.loads((tmp_path / "again.metrics.jsonl").read_text().splitlines()[-1])
    assert used["steps"] % 5 == 0 and used["steps"] < 40, "it went on from a checkpoint"
    for name in (NAME, "metrics.jsonl", "samples.png"):
        assert (tmp_path / "two" / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name


@pytest.mark.slow
def test_two_processes_learn_a_token_as_one_does(world, tmp_path):
    for processes in (1, 2):
        how = {**tiny.TI, "steps": 20, "batch": 4, "accumulation": 2, "num_processes": processes}
        spec, output = tmp_path / f"{processes}.json", tmp_path / str(processes)
        spec.write_text(json.dumps(tiny.spec_for("embedding", world.model, world.images, **how)))
        options = {"spec": spec, "photos": world.root / "masks.tar", "output-dir": output, "threads": 1}
        assert (
            main(["embedding", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]) == 0
        )
    (one,), (two,) = (read_embedding(tmp_path / name / "learned_embeds.safetensors")[1] for name in ("1", "2"))
    (start,) = read_embedding(world.embedding)[1]
    assert float((one - two).norm()) < 1e-3 * float((one - start).norm())
