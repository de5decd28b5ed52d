"""What is painted over: lesion and marker, dilated and blurred into a blending weight."""

import numpy as np
from scipy import ndimage

from cgddi.core.colour import rgb_to_lab
from cgddi.core.images import BACKGROUND, LESION, MARKER, RULER, SKIN
from cgddi.core.skin import deviation, grown, scale_of, unlike

HALO = 60, 1.4
"""A halo reaches so many px (at 512), and so many radii of a disc as large as the lesion, at most."""
VISIBLE_HALO = 3.5, 2.4
"""It lies this far (CIE76), and so many times as far as the skin around, from the colour of the skin as it is lit there."""
LARGEST_HALO = 0.45
"""Share of the photo that lesion and halo may take before the fading part is left out."""
FADING, FADING_REACH = 0.65, 16
"""Where it fades to this share of these limits it still belongs to it, for so many px (at 512)."""
STRANDS = 4.0
"""What is narrower than twice this (px at 512) is a hair, no halo."""
LARGEST_REGION = 0.6
"""Largest share of a photo that may be painted."""
LEAST_SKIN = 0.02
"""Least share of a photo that must be skin to go on."""


def painted_region(
    mask: np.ndarray,
    dilation: int = 5,
    blur_sigma: float = 2.0,
    full_cover: bool = True,
    more: np.ndarray | bool = False,
) -> np.ndarray:
    """Blending weight (H, W) uint8: 255 the inpainted pixel alone, 0 the photo's own.

    Args:
        mask: (H, W) five-class mask; lesion and marker are painted over.
        more: (H, W) bool, what is painted over besides, as `halo` finds it.
        dilation: side in px of the dilating square (published: 5).
        blur_sigma: Gaussian sigma in px, truncated at four sigma (published: 2).
        full_cover: scale the weight, clipped at 255, so that it is 255 on every lesion and marker pixel, and 0 on rulers and
            background. Its extent on skin stays.
    """
    target = (mask == LESION) | (mask == MARKER) | more
    if not target.any():
        return np.zeros(mask.shape, np.uint8)
    grown = ndimage.binary_dilation(target, np.ones((dilation, dilation), bool))
    weight = ndimage.gaussian_filter(grown * 1.0, blur_sigma, mode="nearest", truncate=4.0)
    extent = np.rint(weight * 255) > 0
    if full_cover:
        weight = np.where(extent, (weight / weight[target].min()).clip(max=1), 0)
        weight[(mask == RULER) | (mask == BACKGROUND)] = 0
    return np.rint(weight * 255).astype(np.uint8)


def halo(photo: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The lesion's halo and shadow, (H, W) bool: skin beside it whose colour is not yet that of the skin further off.

    Args:
        photo: (H, W, 3) uint8.
        mask: (H, W) five-class mask.
    """
    lesion, skin, scale = mask == LESION, mask == SKIN, scale_of(mask.shape)
    reach = min(max(2, HALO[0] * scale), max(2, HALO[1] * np.sqrt(lesion.sum() / np.pi)))
    beside = grown(lesion, reach)
    far = skin & ~beside
    if not lesion.any() or far.mean() < LEAST_SKIN:
        return np.zeros(mask.shape, bool)
    lab = rgb_to_lab(photo)
    far &= ~unlike(lab, far)
    distance = deviation(lab, far, skin)
    around = far & grown(lesion, 3 * reach)
    usual = float(np.median(distance[around if around.sum() >= 100 else far]))
    limit = max(VISIBLE_HALO[0], VISIBLE_HALO[1] * usual)
    seen = joined(lesion, beside & skin & (distance > limit), scale)
    fading = grown(seen, FADING_REACH * scale) & beside & skin & (distance > FADING * limit)
    whole = joined(seen, fading, scale)
    return skin & (whole if whole.mean() <= LARGEST_HALO else seen)


def joined(core: np.ndarray, more: np.ndarray, scale: float) -> np.ndarray:
    """A core (H, W) bool with what of `more` hangs together with it, without strands and holes."""
    wide = core | ndimage.binary_opening(core | more, disc(STRANDS * scale))
    labels, _ = ndimage.label(wide)
    return ndimage.binary_fill_holes(wide & np.isin(labels, np.unique(labels[core])))


def disc(radius: float) -> np.ndarray:
    """A filled circle, of one pixel at least."""
    side = int(max(1, radius))
    y, x = np.mgrid[-side : side + 1, -side : side + 1]
    return y * y + x * x <= max(1, radius) ** 2


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
