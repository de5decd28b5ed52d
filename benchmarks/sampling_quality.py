"""How far the default's steps are from the exact picture, in mean grey levels of 255, beside another seed's distance.

On the toy world's model; `SAMPLING_MODEL` names another, a folder in diffusers' layout or a hub id, and `SAMPLING_CANVASES` an
archive of canvases (else plain skin of three colours). Exact is 150 steps of the same solver. A default
several times nearer to it than another seed's picture costs nothing that one could see.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch

from benchmarks import _engine

EXACT, TRIED, IMAGES = 150, (15, 20, 25), 6
TOY = Path(__file__).parents[1] / "config" / "toy" / "model"
SKIN = ((224, 182, 160), (170, 122, 95), (92, 62, 48))


def run() -> dict:
    """Ours: the default's distance from the exact picture; reference: another seed's; ratio: how many times nearer ours is."""
    from cgddi.core.images import TONES
    from cgddi.diffusion.sample import Sampler, SampleSettings
    from cgddi.stages.semantic.settings import SemanticSettings

    device, default = _engine.device(), SemanticSettings()
    model = os.environ.get("SAMPLING_MODEL") or str(TOY)
    backbone = _engine.backbone(model, device)
    size = backbone.denoiser.config.sample_size * backbone.factor
    pixels = _canvases(size)
    mean, std = (torch.cat(part) for part in zip(*(backbone.encode_images(one[None]) for one in pixels), strict=True))
    texts = [default.prompt.format(token="lesion", tone=tone) for tone in TONES]
    prompts = backbone.encode_prompts([texts[number % 3] for number in range(len(pixels))])
    negative = backbone.empty_negative(default.negative_prompt)

    def images(steps: int, solver: str = default.sampler, first: int = 0) -> torch.Tensor:
        how = SampleSettings(solver, steps, default.strength, default.guidance)
        sampler = Sampler(backbone, how, size, len(pixels), negative)
        return sampler.draw(prompts, list(range(first, first + len(pixels))), mean, std).float().cpu()

    exact = images(EXACT)

    def distance(other: torch.Tensor) -> float:
        return round(float((other - exact).abs().mean()), 2)

    plain = "ddim" if backbone.scheduler_config.get("rescale_betas_zero_snr") else "pndm"
    found = {f"{steps}_steps": distance(images(steps)) for steps in sorted({*TRIED, default.steps})}
    ours, other = found[f"{default.steps}_steps"], distance(images(EXACT, first=1000))
    return {
        "name": "sampling_quality",
        "unit": f"grey levels from {EXACT} steps",
        "ours": ours,
        "reference": other,
        "ratio": round(other / ours, 2) if ours else None,
        **found,
        f"100_steps_{plain}": distance(images(100, plain)),
        "model": model,
        "image_size": size,
        "images": len(pixels),
    }


def _canvases(size: int) -> np.ndarray:
    """Canvases (n, size, size, 3) uint8: of the archive that is named, else plain colours."""
    if path := os.environ.get("SAMPLING_CANVASES"):
        from cgddi.diffusion.data import fit_square, read_canvases
        from cgddi.stages.semantic.sample import choose_canvases

        chosen = choose_canvases(read_canvases([Path(path)], None), IMAGES, 0, "quality")
        return np.stack([fit_square(photo.pixels, size) for photo in chosen])
    return np.stack([np.full((size, size, 3), SKIN[number % 3], np.uint8) for number in range(IMAGES)])
