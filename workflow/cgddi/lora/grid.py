"""The contact sheet of an adapter: concept x tone, sampled with fixed noise, for the report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from cgddi.artefacts import write_atomic
from cgddi.diffusion.adapters import FILE, apply, read_adapter
from cgddi.diffusion.backbone import Backbone
from cgddi.diffusion.jobs import fill_prompt
from cgddi.diffusion.sampler import Sampler, SampleSettings
from cgddi.images import TONES, encode_png
from cgddi.lora.data import LoraJob
from cgddi.lora.settings import LoraSettings
from cgddi.seeds import seed_for

NAME = "samples.png"


def tile(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Images (n, H, W, 3) uint8 row by row on one white sheet."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def write_sheet(path: Path, backbone: Backbone, job: LoraJob, settings: LoraSettings) -> None:
    """Sample the concept as the model stands now, tones as rows, the same noise in each, and write the sheet."""
    sampler = Sampler(
        backbone,
        SampleSettings("dpmsolver++", settings.grid_steps, None, settings.grid_guidance, 0.5),
        settings.image_size,
        settings.grid_columns,
        backbone.empty_negative(""),
    )
    texts = [fill_prompt(settings.prompt, job.spec["concept"]["token"], tone) for tone in TONES]
    prompts = backbone.encode_prompts(texts).to("cpu")
    seeds = [seed_for(job.spec["seed"], "grid", column) for column in range(settings.grid_columns)]
    rows = [sampler.draw(prompts[[number] * len(seeds)], seeds, None, None) for number in range(len(TONES))]
    write_atomic(path, encode_png(tile(torch.cat(rows).cpu().numpy(), settings.grid_columns)))


def write_grid(backbone: Backbone, job: LoraJob, settings: LoraSettings) -> None:
    """Sample the finished adapter and write `samples.png` beside it."""
    applied = apply(backbone, read_adapter(job.output / FILE))
    try:
        write_sheet(job.output / NAME, backbone, job, settings)
    finally:
        applied.remove()
