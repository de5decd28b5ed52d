"""Classical inpainting: a biharmonic surface over the region, with the grain of a nearby place of skin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from cgddi.core.placement import allowed_positions, runs_of

MOST_UNKNOWNS = 6000
"""A larger region is solved on a coarser grid: the solver's time grows faster than the region."""
FINE = 2.0
"""Gaussian sigma in px that parts fine texture from shading."""


class BiharmonicInpainter:
    """Inpaints by scikit-image's `inpaint_biharmonic` (Damelin and Hoang 2018), and adds the grain of a nearby place of skin."""

    name = "biharmonic"

    def inpaint(
        self,
        photos: Sequence[np.ndarray],
        regions: Sequence[np.ndarray],
        skins: Sequence[np.ndarray],
        seeds: Sequence[int],
    ) -> list[np.ndarray | None]:
        """Inpaint each photo (see `stage.Inpainter`); `skins` say where the grain may come from. Never None."""
        return [_inpainted(*each) for each in zip(photos, regions, skins, seeds, strict=True)]


def _inpainted(photo: np.ndarray, region: np.ndarray, skin: np.ndarray, seed: int) -> np.ndarray:
    hole = region > 0
    # rulers and cloth beside the hole are no skin to continue: their pixels count as the nearest skin's
    nearest = ndimage.distance_transform_edt(hole | ~skin, return_distances=False, return_indices=True)
    shading = ndimage.gaussian_filter(photo[nearest[0], nearest[1]].astype(np.float64), (FINE, FINE, 0))
    painted = surface(shading, hole)
    # away from rulers and cloth, whose edges are no texture of skin; the hole itself is left out of the shading
    deep = ndimage.binary_erosion(skin | hole, iterations=int(2 * FINE)) & ~hole
    source = deep if deep.any() else skin & ~hole
    painted[hole] += grain_for(photo - shading, hole, source, np.random.default_rng(seed))
    painted[~hole] = photo[~hole]
    return np.rint(painted).clip(0, 255).astype(np.uint8)


def surface(shading: np.ndarray, hole: np.ndarray) -> np.ndarray:
    """The biharmonic continuation (H, W, 3) float, 0 to 255, of a shading into its hole; coarser where the hole is large."""
    from skimage.restoration import inpaint_biharmonic

    factor = max(1, int(np.ceil(np.sqrt(hole.sum() / MOST_UNKNOWNS))))
    height, width = hole.shape
    if factor == 1:
        filled = inpaint_biharmonic(shading / 255, hole, split_into_regions=True, channel_axis=-1)
        return filled.clip(0, 1) * 255
    size = (max(8, width // factor), max(8, height // factor))
    known = ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True)
    closed = shading[known[0], known[1]]
    planes = [Image.fromarray(closed[..., c].astype(np.float32)) for c in range(3)]
    small = np.stack([np.asarray(plane.resize(size, Image.Resampling.BOX)) for plane in planes], -1)
    coarse = np.asarray(Image.fromarray(hole.astype(np.float32)).resize(size, Image.Resampling.BOX)) > 0.5
    filled = (
        inpaint_biharmonic(small.clip(0, 255) / 255, coarse, split_into_regions=True, channel_axis=-1).clip(0, 1) * 255
    )
    large = [
        np.asarray(Image.fromarray(filled[..., c].astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC))
        for c in range(3)
    ]
    return np.where(hole[..., None], np.stack(large, -1), shading)


def grain_for(fine: np.ndarray, hole: np.ndarray, skin: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fine texture (n, 3) for the hole's pixels, in reading order.

    It is copied from a place of skin of the hole's shape, drawn uniformly; where none is large enough, single residuals of the
    skin are drawn, which keeps their spread but not their pattern.
    """
    positions = allowed_positions(skin, runs_of(hole), 0)
    ys, xs = np.nonzero(hole)
    if len(positions):
        y, x = positions.draw(rng)
        return fine[ys - ys.min() + y, xs - xs.min() + x]
    pool = fine[skin]
    if not len(pool):
        return np.zeros((len(ys), 3))
    return pool[rng.integers(len(pool), size=len(ys))]
