"""Textual-inversion steps per second against diffusers' `textual_inversion.py` (a checkout named by DIFFUSERS_EXAMPLES).

`of_limit` is the share reached of the bare step: text encoder and UNet forward and backward, AdamW on the row, on fixed tensors.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import _engine

PROMPT = "An image of lesion on the skin of a dark-skinned individual"

ROUNDS = 3


def run() -> dict:
    """The toy backbone on a CPU (8 images a step), random-weight SD 2.1 at 512 px on a GPU (16 images a step)."""
    device = _engine.device()
    with tempfile.TemporaryDirectory() as folder:
        if device.type == "cuda":
            return measure(_engine.sd21_model(Path(folder) / "model"), Path(folder), 512, 16, 35, device)
        return measure(_engine.toy_model(Path(folder) / "model"), Path(folder), 64, 8, 45, device)


def measure(model: Path, folder: Path, size: int, batch: int, steps: int, device: torch.device) -> dict:
    """Time the script, ours and the bare step on one model."""
    files, tar, names = _engine.photos(folder / "photos", size, 16)
    settings = {
        "image_size": size,
        "batch": batch,
        "accumulation": 1,
        "steps": steps,
        "init_token": "lesion",
        "scale_lr": False,
    }
    argv = f"--pretrained_model_name_or_path {model} --train_data_dir {files} --placeholder_token <s>".split()
    argv += f"--initializer_token lesion --resolution {size} --train_batch_size {batch} --max_train_steps {steps * 2}".split()
    argv += f"--learning_rate 5e-4 --lr_scheduler constant --output_dir {folder}/theirs --seed 0 --save_steps 100000".split()
    argv += ["--mixed_precision", "bf16" if device.type == "cuda" else "no", "--lr_warmup_steps", "0"]
    ours, limit, theirs = [], [], []
    for _ in range(ROUNDS):  # in turn, so that other work on the machine meets all of them
        ours.append(our_seconds(model, tar, names, folder, settings, device))
        limit.append(_engine.timed(bare_step(model, size, batch, device), steps, 10))
        clock = _engine.script("textual_inversion/textual_inversion.py", argv, steps)
        theirs += [clock.seconds(10)] if clock else []
        _engine.device()
    return _engine.result("ti_step", min(ours), min(theirs, default=None), min(limit), image_size=size, batch=batch)


def our_seconds(model: Path, tar: Path, names: list[str], folder: Path, settings: dict, device: torch.device) -> float:
    """Seconds per step of the stage's own function."""
    from cgddi.diffusion import train
    from cgddi.stages.embedding.train import TokenJob, train_token

    with _engine.clocked(train, _engine.Clock()) as clock:
        job = TokenJob(_engine.spec("embedding", model, names, **settings), [tar], folder / "ours")
        train_token(job, device=device)  # no cache: it would give the second round the first one's token
    return clock.seconds(10)


def bare_step(model: Path, size: int, batch: int, device: torch.device) -> Callable[[], None]:
    """The least that a step must do, on fixed tensors."""
    from cgddi.diffusion.tokens import start_rows

    backbone = _engine.backbone(str(model), device)
    start = start_rows(backbone.tokenizers[0], backbone.text_encoders[0], "lesion", 1)
    row = backbone.add_token("<s>", [start])[0].rows.requires_grad_(True)
    optimizer = torch.optim.AdamW([row], 1e-4)
    ids = backbone.tokenize([PROMPT.replace("lesion", "<s>")] * 3)
    which = torch.arange(batch, device=device) % 3
    x = torch.randn(batch, *backbone.latent_shape(size), device=device)
    times = torch.arange(batch, device=device) * 7

    def step() -> None:
        prompts = backbone.encode_ids(ids)[which]
        loss = (backbone.denoise(x, times, prompts).float() - x).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step
