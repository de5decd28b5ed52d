"""The contact sheet of an adapter: concept x tone, sampled with fixed noise, for the report."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from cgddi.artefacts import write_atomic
from cgddi.diffusion.adapters import FILE, Applied, read_adapter
from cgddi.diffusion.backbone import Backbone
from cgddi.diffusion.cache import Store
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


def write_grid(backbone: Backbone, job: LoraJob, settings: LoraSettings, encode: Callable, store: Store) -> None:
    """Sample the finished adapter, tones as rows, and write `samples.png` beside it."""
    sampler = Sampler(
        backbone,
        SampleSettings("dpmsolver++", settings.grid_steps, None, settings.grid_guidance, 0.5),
        settings.image_size,
        settings.grid_columns,
        backbone.empty_negative(""),
    )
    token = job.spec["concept"]["token"]
    prompts = encode(backbone, store, [settings.prompt.format(token=token, tone=tone) for tone in TONES])
    applied = Applied(backbone.unet, read_adapter(job.output / FILE))
    try:
        rows = []
        for number in range(len(TONES)):
            seeds = [seed_for(job.spec["seed"], "grid", column) for column in range(settings.grid_columns)]
            rows.append(sampler.draw(prompts[[number] * len(seeds)], seeds, None, None).cpu())
    finally:
        applied.remove()
    sheet = tile(torch.cat(rows).numpy(), settings.grid_columns)
    write_atomic(job.output / NAME, encode_png(sheet))
