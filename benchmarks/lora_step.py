"""LoRA training steps per second against diffusers' `train_dreambooth_lora.py` (a checkout named by DIFFUSERS_EXAMPLES).

`of_limit` is the share reached of the bare step: forward, backward, clipping and AdamW on fixed tensors, peft's layers, no data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import _engine

ROUNDS = 3


def run() -> dict:
    """The toy backbone on a CPU, random-weight SD 2.1 at 256 px on a GPU; the published 16 + 16 images (8 + 8 on a CPU)."""
    device = _engine.device()
    with tempfile.TemporaryDirectory() as folder:
        if device.type == "cuda":
            return measure(_engine.sd21_model(Path(folder) / "model"), Path(folder), 256, 16, 60, device)
        return measure(_engine.toy_model(Path(folder) / "model"), Path(folder), 64, 8, 45, device)


def measure(model: Path, folder: Path, size: int, batch: int, steps: int, device: torch.device) -> dict:
    """Time the script, ours and the bare step on one model."""
    files, tar, names = _engine.photos(folder / "photos", size, 48)
    settings = {"image_size": size, "instances": batch, "priors_per_step": batch, "steps": steps, "learning_rate": 1e-4}
    argv = f"--pretrained_model_name_or_path {model} --instance_data_dir {files} --class_data_dir {files}".split()
    argv += (
        f"--resolution {size} --train_batch_size {batch} --num_class_images 48 --prior_loss_weight 1 --rank 8".split()
    )
    argv += f"--max_train_steps {steps * 2} --output_dir {folder}/theirs --learning_rate 1e-4 --seed 0".split()
    argv += [
        "--instance_prompt",
        "a photo of a lesion",
        "--class_prompt",
        "a photo of skin",
        "--with_prior_preservation",
    ]
    argv += ["--mixed_precision", "bf16" if device.type == "cuda" else "no", "--report_to", "tensorboard"]
    ours, limit, theirs = [], [], []
    for _ in range(ROUNDS):  # in turn, so that other work on the machine meets all of them
        ours.append(our_seconds(model, tar, names, folder, settings, device))
        limit.append(_engine.timed(bare_step(model, size, 2 * batch, device), steps, 10))
        clock = _engine.script("dreambooth/train_dreambooth_lora.py", argv, steps)
        theirs += [clock.seconds(10)] if clock else []
        _engine.device()
    return _engine.result(
        "lora_step", min(ours), min(theirs, default=None), min(limit), image_size=size, batch=2 * batch
    )


def our_seconds(model: Path, tar: Path, names: list[str], folder: Path, settings: dict, device: torch.device) -> float:
    """Seconds per step of the stage's own function."""
    from cgddi.diffusion import train
    from cgddi.diffusion.tokens import start_rows
    from cgddi.diffusion.weights import write_tensors
    from cgddi.stages.lora.train import LoraJob, train_lora

    backbone = _engine.backbone(str(model), device)
    rows = start_rows(backbone.tokenizers[0], backbone.text_encoders[0], "lesion", 1)
    write_tensors(folder / "token.safetensors", {"<c>": rows})
    job = LoraJob(
        _engine.spec("lora", model, names, grid_steps=2, grid_columns=1, **settings),
        [tar], [tar], None, folder / "token.safetensors", folder / "ours",
    )  # fmt: skip
    with _engine.clocked(train, _engine.Clock()) as clock:
        # No cache: it would give the second round the first one's adapter.
        train_lora(job, device=device, backbone=backbone)
    return clock.seconds(10)


def bare_step(model: Path, size: int, batch: int, device: torch.device) -> Callable[[], None]:
    """The least that a step must do, on fixed tensors."""
    from cgddi.stages.lora.settings import LoraSettings
    from peft import LoraConfig

    backbone = _engine.backbone(str(model), device)
    unet, dtype = backbone.denoiser, backbone.dtype
    targets = list(LoraSettings().target_modules)
    unet.add_adapter(LoraConfig(r=8, lora_alpha=8, init_lora_weights="gaussian", target_modules=targets))
    parameters = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, 1e-4)
    x = torch.randn(batch, *backbone.latent_shape(size), device=device, dtype=dtype)
    text = backbone.encode_prompts(["a photo of a lesion"]).embeds.repeat(batch, 1, 1).to(dtype)
    times = torch.arange(batch, device=device) * 7

    def step() -> None:
        loss = (unet(x, times, text, return_dict=False)[0].float() - x.float()).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step
