"""What is painted over: lesion and marker, dilated and blurred into a blending weight."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cgddi.core.images import LESION, MARKER, SKIN

LARGEST_REGION = 0.6
"""Largest share of a photo that may be painted."""
LEAST_SKIN = 0.02
"""Least share of a photo that must be skin to go on."""


def painted_region(mask: np.ndarray, dilation: int = 5, blur_sigma: float = 2.0, full_cover: bool = True) -> np.ndarray:
    """Blending weight (H, W) uint8: 255 the inpainted pixel alone, 0 the photo's own.

    Args:
        mask: (H, W) five-class mask; lesion and marker are painted over.
        dilation: side in px of the dilating square (published: 5).
        blur_sigma: Gaussian sigma in px, truncated at four sigma (published: 2).
        full_cover: scale the weight, clipped at 255, so that it is 255 on every lesion and marker pixel. Its extent stays.
    """
    target = (mask == LESION) | (mask == MARKER)
    if not target.any():
        return np.zeros(mask.shape, np.uint8)
    grown = ndimage.binary_dilation(target, np.ones((dilation, dilation), bool))
    weight = ndimage.gaussian_filter(grown * 1.0, blur_sigma, mode="nearest", truncate=4.0)
    extent = np.rint(weight * 255) > 0
    if full_cover:
        weight = np.where(extent, (weight / weight[target].min()).clip(max=1), 0)
    return np.rint(weight * 255).astype(np.uint8)


def healthy_mask(mask: np.ndarray) -> np.ndarray:
    """The five-class mask of the result: lesion and marker are skin now."""
    return np.where((mask == LESION) | (mask == MARKER), SKIN, mask).astype(np.uint8)


def why_unpaintable(mask: np.ndarray, region: np.ndarray) -> str | None:
    """Why a photo cannot become a canvas, or None when it can."""
    lesion = mask == LESION
    if not lesion.any():
        return "its mask has no lesion, so it cannot be told where the skin is ill"
    if lesion.all():
        return "the lesion covers the whole image: there is no skin to go on"
    skin = ((mask == SKIN) & (region == 0)).mean()
    if skin < LEAST_SKIN:
        return f"too little skin to go on: {skin:.1%} of the image"
    painted = (region > 0).mean()
    if painted > LARGEST_REGION:
        return f"{painted:.0%} of the image would be painted"
    return None
