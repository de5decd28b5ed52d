"""K = 4 adapters trained together over one frozen base against four runs in turn, batch 4 (2 instances + 2 priors) each.

Measured twice: the training loop's steps alone (`ratio`), and whole runs of the command as the rule calls it, from the start of the
process to the last file (`runs_ratio`, seconds in `runs_ours` and `runs_reference`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import yaml

from benchmarks import _engine

if TYPE_CHECKING:
    from cgddi.diffusion.backbone import Backbone

ADAPTERS = 4
ROOT = Path(__file__).parents[1]


def run() -> dict:
    """The toy backbone on a CPU, random-weight SD 2.1 at 256 px on a GPU."""
    device = _engine.device()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cuda = device.type == "cuda"
        model = (_engine.sd21_model if cuda else _engine.toy_model)(folder / "model")
        size = 256 if cuda else 64
        return measure(model, folder, size, 55, device) | measure_runs(model, folder / "runs", size)


def measure(model: Path, folder: Path, size: int, steps: int, device: torch.device) -> dict:
    """Time one adapter alone and four together."""
    _, tar, names = _engine.photos(folder / "photos", size, 16)
    together, alone = [], []
    for _ in range(3):
        alone.append(_train(model, tar, names, folder, size, steps, 1, device))
        together.append(_train(model, tar, names, folder, size, steps, ADAPTERS, device))
    one, four = min(alone), min(together)
    return {
        "name": "multi_adapter",
        "unit": "adapter steps/s",
        "ours": round(ADAPTERS / four, 3),
        "reference": round(1 / one, 3),
        "ratio": round(ADAPTERS * one / four, 3),
        "adapters": ADAPTERS,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu, 1 thread",
    }


def _train(
    model: Path, tar: Path, names: list[str], folder: Path, size: int, steps: int, count: int, device: torch.device
) -> float:
    from cgddi.diffusion import fit
    from cgddi.diffusion.backbone import load
    from cgddi.stages.lora.data import LoraJob
    from cgddi.stages.lora.train import train_lora

    backbone, pack = load({"source": str(model)}, device), []
    for number, token in enumerate(_tokens(backbone, folder, count)):
        settings = {
            "image_size": size,
            "instances": 2,
            "priors_per_step": 2,
            "steps": steps,
            "grid_steps": 2,
            "grid_columns": 1,
        }
        job = _engine.spec("lora", model, names, f"c{number}", **settings)
        pack.append(LoraJob(job, [tar], [tar], None, token, folder / f"out{number}"))
    with _engine.clocked(fit, _engine.Clock()) as clock:
        train_lora(pack, cache=folder / "cache", device=device, backbone=backbone)
    return clock.seconds(10)


def measure_runs(model: Path, folder: Path, size: int, rounds: int = 2) -> dict:
    """Time four runs of `cgddi lora` in turn and one of a pack of four, with the toy world's settings and steps.

    Latents and text embeddings are in the shared cache before anything is timed, so that neither side has to make them.
    """
    from cgddi.diffusion.backbone import load

    _, tar, names = _engine.photos(folder / "photos", size, 16)
    toy = yaml.safe_load((ROOT / "config/toy/config.yaml").read_text())["lora"]
    settings = toy | {"image_size": size, "instances": 2, "priors_per_step": 2}
    tokens = _tokens(load({"source": str(model)}, torch.device("cpu")), folder, ADAPTERS)
    specs = [_engine.spec("lora", model, names, f"c{number}", **settings) for number in range(ADAPTERS)]

    def command(chosen: Sequence[int], **changes) -> float:
        pack = [spec | {"settings": settings | changes} for spec in (specs[number] for number in chosen)]
        alone = len(pack) == 1
        place = ["--output-dir", folder / f"out{chosen[0]}"] if alone else ["--output-pack", folder / "pack.tar"]
        argv = ["--gpus", "1", "lora", "--spec", json.dumps(pack[0] if alone else {"pack": pack})]
        argv += ["--photos", tar, "--canvases", tar, "--embedding", *(tokens[number] for number in chosen), *place]
        argv += ["--state", folder / "state", "--cache", folder / "cache", "--metrics", folder / "metrics.jsonl"]
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "cgddi.cli", *map(str, argv), "--threads", "1"],
            check=True,
            env={**os.environ, "PYTHONPATH": str(ROOT / "workflow")},
            stderr=subprocess.DEVNULL,
        )
        return time.perf_counter() - began

    everyone = range(ADAPTERS)
    command(everyone, steps=1)
    together, in_turn = [], []
    for _ in range(rounds):
        in_turn.append(sum(command([number]) for number in everyone))
        together.append(command(everyone))
    return {
        "runs_ours": round(min(together), 2),
        "runs_reference": round(min(in_turn), 2),
        "runs_ratio": round(min(in_turn) / min(together), 3),
        "runs_steps": settings["steps"],
    }


def _tokens(backbone: Backbone, folder: Path, count: int) -> list[Path]:
    """Files of tokens that were not trained, one per adapter."""
    from cgddi.diffusion.tokens import start_rows
    from cgddi.diffusion.weights import write_tensors

    rows = start_rows(backbone.tokenizers[0], backbone.text_encoders[0], "lesion", 1)
    files = [folder / f"{number}.safetensors" for number in range(count)]
    for number, file in enumerate(files):
        write_tensors(file, {f"<c{number}>": rows})
    return files
