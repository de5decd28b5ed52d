"""Pasting a cut-out lesion into a canvas: by weight or in the gradient domain, with or without matched lighting."""

from __future__ import annotations

import numpy as np

from cgddi.core.colour import lab_to_rgb, rgb_to_lab, to_uint8
from cgddi.core.images import LESION
from cgddi.core.membrane import Membrane
from cgddi.stages.lesion_mapped.lesion import Lesion

POISSON_WEIGHT = 13
"""Gradient-domain blending replaces pixels of a paste weight of at least this (5% of 255)."""


class Blender:
    """Pastes one lesion onto any number of canvases; what depends on the lesion alone is computed once.

    Args:
        lesion: the cut-out.
        blending: "alpha" or "poisson".
        lighting_match: shift the lesion in CIELAB by the difference of the skin around it and around its new place.
    """

    def __init__(self, lesion: Lesion, blending: str, lighting_match: bool):
        self.lesion, self.lighting_match = lesion, lighting_match
        self._membrane = None
        if blending == "poisson":
            region = lesion.weight >= POISSON_WEIGHT
            region[[0, -1]] = region[:, [0, -1]] = False
            self._membrane = Membrane(region)

    def paste(self, canvas: np.ndarray, mask: np.ndarray, place: tuple[int, int]) -> None:
        """Paste in place.

        Args:
            canvas: (H, W, 3) uint8, changed.
            mask: (H, W) uint8, changed: the lesion's pixels become class 1.
            place: (y, x) of the top left pixel of the lesion's bounding box.
        """
        lesion = self.lesion
        top, left = place[0] - lesion.margin, place[1] - lesion.margin
        height, width = lesion.shape.shape
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + height, canvas.shape[0]), min(left + width, canvas.shape[1])
        part = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        target = canvas[y0:y1, x0:x1]
        pixels = self._lit(target, part) if self.lighting_match else lesion.pixels
        if self._membrane is not None:
            edge = ((y0 - top, top + height - y1), (x0 - left, left + width - x1), (0, 0))
            target[...] = self._seamless(np.pad(target, edge, mode="edge"), pixels)[part]
        else:
            weight = lesion.weight[part][..., None].astype(np.uint16)
            weighted = pixels[part] * weight if self.lighting_match else lesion.weighted[part]
            total = target * (255 - weight) + weighted + np.uint16(128)
            target[...] = (total + (total >> 8)) >> 8  # exact rounded division by 255
        mask[y0:y1, x0:x1][lesion.shape[part]] = LESION

    def _lit(self, target: np.ndarray, part: tuple[slice, slice]) -> np.ndarray:
        """The lesion's pixels under the light of the target place."""
        around = (self.lesion.weight > 0)[part]
        shift = rgb_to_lab(target[around]).mean(0) - self.lesion.skin_lab
        return to_uint8(lab_to_rgb(self.lesion.lab + shift))

    def _seamless(self, target: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """The target with the lesion's gradients inside the region and its own colours at the region's edge."""
        region = self._membrane.region
        source = pixels.astype(np.float64)
        result = target.copy()
        result[region] = np.rint(source[region] + self._membrane(target - source)).clip(0, 255).astype(np.uint8)
        return result
