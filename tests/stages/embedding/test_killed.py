"""The embedding command, killed by the kernel while it trains, goes on to the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

from tests.diffusion import tiny

ROOT = Path(__file__).parents[3]


def test_a_real_kill_9_of_the_command(world, tmp_path):
    settings = {**tiny.TI, "steps": 30, "checkpoint_every": 3}
    spec = tiny.spec_for("embedding", world.model, world.images, **settings)
    photos, out, state = world.root / "masks.tar", tmp_path / "out", tmp_path / "state"
    argv = [sys.executable, "-m", "cgddi.cli", "embedding", "--spec", json.dumps(spec), "--photos", str(photos)]
    argv += ["--output-dir", str(out), "--state", str(state), "--threads", "1"]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "workflow")}
    run = subprocess.Popen(argv, env=env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list(state.glob("embedding-*.safetensors")):
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.02)
    run.kill()
    assert run.wait() == -9 and not out.exists()
    subprocess.run(argv, env=env, check=True, capture_output=True)
    tiny.train_embedding(spec, [photos], tmp_path / "undisturbed")
    for name in ("learned_embeds.safetensors", "metrics.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name
    assert not list(state.glob("embedding-*"))
