"""Images per second of batched img2img against diffusers' pipeline image by image, and against the published 100 steps."""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import _engine

PROMPT = "An image of lesion on a dark-toned individual"
STEPS, PUBLISHED, STRENGTH, GUIDANCE = 25, 100, 0.725, 8.75


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
    from cgddi.diffusion.backbone import load
    from cgddi.diffusion.sampler import Sampler, SampleSettings
    from cgddi.diffusion.schedule import solver

    backbone = load({"source": str(model)}, device)
    pixels = np.random.default_rng(0).integers(0, 256, (1, size, size, 3), dtype=np.uint8)
    mean, std = (backbone.scale_latents(part).repeat(batch, 1, 1, 1) for part in backbone.encode_images(pixels))
    prompts = backbone.encode_prompts([PROMPT])[[0] * batch]
    sampler = Sampler(
        backbone, SampleSettings("dpmsolver++", STEPS, STRENGTH, GUIDANCE), size, batch, backbone.empty_negative("")
    )
    ours = _seconds(lambda: sampler.draw(prompts, list(range(batch)), mean, std).cpu(), rounds) / batch
    peak = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0
    pipe = _pipeline(backbone)
    plain = "ddim" if backbone.scheduler_config.get("rescale_betas_zero_snr") else "pndm"

    def theirs(name: str, steps: int) -> float:
        pipe.scheduler = solver(name, backbone.scheduler_config)
        picture, seed = Image.fromarray(pixels[0]), torch.Generator().manual_seed(0)
        options = {"strength": STRENGTH, "guidance_scale": GUIDANCE, "num_inference_steps": steps, "generator": seed}
        return _seconds(lambda: pipe(PROMPT, image=picture, **options), rounds)

    equal, published = theirs("dpmsolver++", STEPS), theirs(plain, PUBLISHED)
    facts = {"image_size": size, "batch": batch}
    facts["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "cpu, 1 thread"
    if peak:
        facts["peak_gib"] = round(peak, 2)
    facts |= _distances(sampler, prompts, mean, std)
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


def _distances(sampler, prompts, mean: torch.Tensor, std: torch.Tensor) -> dict:
    """Quality check: mean grey levels from 200 steps of DPM-Solver++, for the default and for the published loop."""
    from dataclasses import replace

    def images(**change) -> torch.Tensor:
        other = copy.copy(sampler)
        other.settings = replace(sampler.settings, **change)
        return other.draw(prompts, list(range(len(mean))), mean, std).float().cpu()

    plain = "ddim" if sampler.backbone.scheduler_config.get("rescale_betas_zero_snr") else "pndm"
    exact = images(steps=200)
    found = {"default": images(), "published": images(sampler=plain, steps=PUBLISHED)}
    return {
        f"grey_levels_from_200_steps_{name}": round(float((x - exact).abs().mean()), 2) for name, x in found.items()
    }


def _pipeline(backbone):
    from diffusers import StableDiffusionImg2ImgPipeline

    pipe = StableDiffusionImg2ImgPipeline(
        backbone.vae,
        backbone.text_encoders[0].to(backbone.dtype),
        backbone.tokenizers[0],
        backbone.unet,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _seconds(draw, rounds: int) -> float:
    draw()
    found = []
    for _ in range(rounds):
        began = time.perf_counter()
        draw()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def _row(name: str, ours: float, theirs: float, **more) -> dict:
    figures = {"ours": round(1 / ours, 3), "reference": round(1 / theirs, 3), "ratio": round(theirs / ours, 2)}
    return {"name": name, "unit": "images/s", **figures, **more}
