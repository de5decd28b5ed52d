"""Images per second of batched img2img against diffusers' pipeline image by image, and against the published 100 steps."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import _engine

PROMPT = "An image of lesion on a dark-toned individual"
STEPS, PUBLISHED, STRENGTH, GUIDANCE = 20, 100, 0.725, 8.75


def run() -> list[dict]:
    """The toy backbone at 64 px on a CPU, random-weight SD 2.1 at 512 px on a GPU."""
    device = _engine.device()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if device.type == "cuda":
            return measure(_engine.sd21_model(folder / "model"), 512, 16, device, 2)
        return measure(_engine.toy_model(folder / "model"), 64, 16, device, 3)


def measure(model: Path, size: int, batch: int, device: torch.device, rounds: int) -> list[dict]:
    """Time ours and the pipeline at equal steps, and the pipeline at the published steps."""
    from cgddi.diffusion.sample import Sampler, SampleSettings
    from cgddi.diffusion.schedule import partial_timesteps, solver

    backbone = _engine.backbone(str(model), device)
    pixels = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    mean, std = (part.repeat(batch, 1, 1, 1) for part in backbone.encode_images(pixels))
    prompts = backbone.encode_prompts([PROMPT])[[0] * batch]
    sampler = Sampler(
        backbone, SampleSettings("dpmsolver++", STEPS, STRENGTH, GUIDANCE), size, batch, backbone.empty_negative("")
    )
    pipe = _pipeline(model, backbone)
    plain = "ddim" if backbone.scheduler_config.get("rescale_betas_zero_snr") else "pndm"
    picture = Image.fromarray(pixels[0])

    def theirs(name: str, **steps) -> None:
        pipe.scheduler = solver(name, backbone.scheduler_config)
        pipe(PROMPT, image=picture, guidance_scale=GUIDANCE, generator=torch.Generator().manual_seed(0), **steps)

    equal_steps = {
        "strength": 1.0,
        "timesteps": partial_timesteps(STEPS, STRENGTH, backbone.schedule.num_train_timesteps),
    }
    calls = {
        "ours": lambda: sampler.draw(prompts, list(range(batch)), mean, std).cpu(),
        "equal": lambda: theirs("dpmsolver++", **equal_steps),
        "published": lambda: theirs(plain, strength=STRENGTH, num_inference_steps=PUBLISHED),
    }
    times = _seconds(calls, rounds)
    ours, equal, published = times["ours"] / batch, times["equal"], times["published"]
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0
    facts = {"image_size": size, "batch": batch}
    facts["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu, 1 thread"
    if peak:
        facts["peak_gib"] = round(peak, 2)
    return [
        _row("sampling", ours, equal, steps=STEPS, **facts),
        _row(
            "sampling_default_against_published",
            ours,
            published,
            steps=[STEPS, PUBLISHED],
            published_solver=plain,
            **facts,
        ),
    ]


def _pipeline(model: Path, backbone):
    """diffusers' own pipeline, loaded as anyone would."""
    from diffusers import StableDiffusionImg2ImgPipeline

    pipe = StableDiffusionImg2ImgPipeline.from_pretrained(model, torch_dtype=backbone.dtype, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(backbone.device)


def _seconds(calls: dict, rounds: int) -> dict[str, float]:
    """Median seconds of each call, taken in turn so that other work on the machine meets all of them."""
    found = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            began = _engine.now()
            call()
            if number:  # the first round warms up
                found[name].append(_engine.now() - began)
    return {name: statistics.median(times) for name, times in found.items()}


def _row(name: str, ours: float, theirs: float, **more) -> dict:
    figures = {"ours": round(1 / ours, 3), "reference": round(1 / theirs, 3), "ratio": round(theirs / ours, 2)}
    return {"name": name, "unit": "images/s", **figures, **more}
