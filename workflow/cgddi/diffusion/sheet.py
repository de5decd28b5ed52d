"""Sheets of samples: a concept in three tones, drawn with fixed noise while it is learnt and when it is done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cgddi.core.archive import write_atomic
from cgddi.core.images import TONES, encode_png
from cgddi.core.seeds import seed_for
from cgddi.diffusion.backbone import Backbone
from cgddi.diffusion.jobs import fill_prompt
from cgddi.diffusion.sampler import Sampler, SampleSettings


def tile(images: np.ndarray, columns: int, gap: int = 2) -> np.ndarray:
    """Images (n, H, W, 3) uint8 row by row on one white sheet."""
    count, height, width, _ = images.shape
    rows = -(-count // columns)
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), 255, np.uint8)
    for number, image in enumerate(images):
        top, left = number // columns * (height + gap), number % columns * (width + gap)
        sheet[top : top + height, left : left + width] = image
    return sheet


def write_sheet(path: Path, backbone: Backbone, spec: Mapping[str, Any], settings: Any) -> None:
    """Sample a concept as the model stands now, tones as rows, the same noise in each, and write the sheet.

    Args:
        path: the PNG to write.
        spec: the job's; its concept's token and its seed are read.
        settings: of the embedding or lora stage: prompt, image_size and what starts with `grid_`.
    """
    sampler = Sampler(
        backbone,
        SampleSettings(
            settings.grid_sampler, settings.grid_steps, None, settings.grid_guidance, settings.grid_guidance_rescale
        ),
        settings.image_size,
        settings.grid_columns,
        backbone.empty_negative(""),
    )
    texts = [fill_prompt(settings.prompt, spec["concept"]["token"], tone) for tone in TONES]
    prompts = backbone.encode_prompts(texts).to("cpu")
    seeds = [seed_for(spec["seed"], "grid", column) for column in range(settings.grid_columns)]
    rows = [sampler.draw(prompts[[number] * len(seeds)], seeds, None, None) for number in range(len(TONES))]
    write_atomic(path, encode_png(tile(torch.cat(rows).cpu().numpy(), settings.grid_columns)))
