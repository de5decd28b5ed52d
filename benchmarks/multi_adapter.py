"""K = 4 adapters trained together over one frozen base against four runs in turn, batch 4 (2 instances + 2 priors) each."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch

from benchmarks import _engine

ADAPTERS = 4


def run() -> dict:
    """The toy backbone on a CPU, random-weight SD 2.1 at 256 px on a GPU."""
    device = _engine.device()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cuda = device.type == "cuda"
        model = (_engine.sd21_model if cuda else _engine.toy_model)(folder / "model")
        return measure(model, folder, 256 if cuda else 64, 55, device)


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
    from cgddi.diffusion.tokens import start_rows
    from cgddi.diffusion.weights import write_tensors
    from cgddi.lora.data import LoraJob
    from cgddi.lora.train import train_lora

    backbone, pack = load({"source": str(model)}, device), []
    rows = start_rows(backbone.tokenizers[0], backbone.text_encoders[0], "lesion", 1)
    for number in range(count):
        token = folder / f"{number}.safetensors"
        write_tensors(token, {f"<c{number}>": rows})
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
