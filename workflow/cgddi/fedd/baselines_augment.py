"""Augmentation of the baselines: flips, rotation and light, for a whole batch at once."""

from __future__ import annotations

import math

import torch
from torch.nn import functional

from cgddi.fedd.settings import Augment


def augmented(
    pixels: torch.Tensor, masks: torch.Tensor | None, settings: Augment, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """One random view of each picture, and the same view of its mask.

    Photos are sampled bilinearly and masks by nearest neighbour, both mirrored at the border, so that no made-up background
    enters the mask.

    Args:
        pixels: float (B, 3, H, W) in 0..1, on any device.
        masks: int64 (B, H, W), or None.
        settings: ranges.
        generator: on the CPU: the draws are the same on every device.

    Returns:
        pixels in 0..1 and masks, of the same shapes.
    """
    count, device = len(pixels), pixels.device

    def draw(low: float, high: float) -> torch.Tensor:
        return torch.rand(count, generator=generator) * (high - low) + low

    angle = draw(-settings.rotation, settings.rotation) * math.pi / 180
    x, y = (torch.where(draw(0, 1) < settings.flip, -1.0, 1.0) for _ in range(2))
    cos, sin, nil = angle.cos(), angle.sin(), torch.zeros(count)
    matrix = torch.stack([torch.stack([cos * x, -sin * y, nil], 1), torch.stack([sin * x, cos * y, nil], 1)], 1)
    grid = functional.affine_grid(matrix.to(device), list(pixels.shape), align_corners=False)
    options = {"padding_mode": "reflection", "align_corners": False}
    pixels = functional.grid_sample(pixels, grid, mode="bilinear", **options)
    if masks is not None:
        masks = functional.grid_sample(masks[:, None].float(), grid, mode="nearest", **options)[:, 0].long()
    light, contrast, colour = (
        draw(1 - strength, 1 + strength).to(device)[:, None, None, None]
        for strength in (settings.brightness, settings.contrast, settings.saturation)
    )
    pixels = pixels * light
    middle = pixels.mean((1, 2, 3), keepdim=True)
    pixels = (pixels - middle) * contrast + middle
    grey = pixels.mean(1, keepdim=True)
    return ((pixels - grey) * colour + grey).clamp(0, 1), masks
