"""Pasting a cut-out lesion into a canvas: by weight or in the gradient domain, with or without matched lighting."""

import numpy as np

from cgddi.core.images import LESION, MARKER, SKIN
from cgddi.core.membrane import Membrane
from cgddi.stages.lesion_mapped.lesion import Lesion
from cgddi.stages.lesion_mapped.light import Light

POISSON_WEIGHT = 13
"""Gradient-domain blending replaces pixels of a paste weight of at least this (5% of 255)."""
VALID = np.zeros(256, bool)
"""Whether a class of a canvas's mask may be pasted on: where there was a lesion or ink, there is healthy skin now."""
VALID[[SKIN, LESION, MARKER]] = True


class Blender:
    """Pastes one lesion onto any number of canvases; what depends on the lesion alone is computed once.

    Args:
        blending: "alpha" or "poisson".
        lighting_match: bring the lesion into the light of its new place (see `light`).
    """

    def __init__(self, lesion: Lesion, blending: str, lighting_match: bool):
        self.lesion = lesion
        self._part = lesion.weight > 0
        self._weight = lesion.weight[self._part].astype(np.uint16)[:, None]
        self._pixels = lesion.pixels[self._part]
        self._light = Light(lesion, self._part) if lighting_match else None
        self._membrane = None
        if blending == "poisson":
            region = lesion.weight >= POISSON_WEIGHT
            region[[0, -1]] = region[:, [0, -1]] = False
            self._membrane = Membrane(region)

    def paste(self, canvas: np.ndarray, mask: np.ndarray, place: tuple[int, int]) -> list[float] | None:
        """Paste in place.

        Args:
            canvas: (H, W, 3) uint8, changed.
            mask: (H, W) uint8, changed: the lesion's pixels become class 1.
            place: (y, x) of the top left pixel of the lesion's bounding box.

        Returns:
            The change of the skin's colour (L*, a*, b*) from the donor to this place, where lighting is matched.
        """
        lesion = self.lesion
        top, left = place[0] - lesion.margin, place[1] - lesion.margin
        height, width = lesion.shape.shape
        y0, x0 = max(top, 0), max(left, 0)
        y1, x1 = min(top + height, canvas.shape[0]), min(left + width, canvas.shape[1])
        edge = ((y0 - top, top + height - y1), (x0 - left, left + width - x1))
        target, classes = canvas[y0:y1, x0:x1], mask[y0:y1, x0:x1]
        window, inside = target, np.s_[:]
        usable = VALID[classes]
        if target.shape[:2] != (
            height,
            width,
        ):  # beyond the canvas its edge pixels stand, so that one set of indices serves
            window, usable = np.pad(target, (*edge, (0, 0)), mode="edge"), np.pad(usable, edge)
            inside = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        under, usable = window[self._part], usable[self._part]
        pixels, change = self._pixels, None
        if self._light is not None:
            chosen = self._light.sampled
            plane = self._light.plane(under[chosen], usable[chosen])
            pixels, change = self._light(plane), [round(float(c), 2) for c in plane[0] - self._light.skin]
        if self._membrane is not None:
            window = self._seamless(window, pixels)
        else:
            weight = (
                self._weight * usable[:, None] if lesion.halo else self._weight
            )  # a halo may reach beyond the padding
            total = under * (255 - weight) + pixels * weight + np.uint16(128)
            window[self._part] = (total + (total >> 8)) >> 8  # exact rounded division by 255
        target[...] = window[inside]
        classes[lesion.shape[inside]] = LESION
        return change

    def _seamless(self, target: np.ndarray, pixels: np.ndarray) -> np.ndarray:
        """The target with the lesion's gradients inside the region and its own colours at the region's edge."""
        region = self._membrane.region
        source = self.lesion.pixels.astype(np.float64)
        source[self._part] = pixels
        result = target.copy()
        result[region] = np.rint(source[region] + self._membrane(target - source)).clip(0, 255).astype(np.uint8)
        return result
