"""A lesion in the light of another place: skin takes that skin's colour, blue stays blue, black stays black, white stays white.

A shift of all colours by the difference of both skins (the usual lighting match) turns a blue naevus brown and clips a black one.
Here a colour follows the skin as far as it is one of skin:

- Lightness goes through a curve that rises everywhere, from black to black, from the donor's skin to the canvas's, and from white
  to white: what is darker stays darker, and nothing leaves the range.
- Chroma is shifted by as much of the difference of both skins as the colour has of the donor's skin colour: all for skin, redness
  and brown, none for blue, black, grey and white. What is near the skin's colour, and what lies outside the lesion, is a tint on
  skin and is shifted too.
- What would leave sRGB all the same loses chroma at its own luminance and hue.
"""

import numpy as np
from scipy import ndimage

from cgddi.core.colour import delta_e, rgb_to_lab, unclipped_rgb
from cgddi.stages.lesion_mapped.lesion import Lesion

LEAST_CHROMA = 10.0
"""Skin of less chroma than this (a grey or blue photo) is not told from grey by it."""
COLOURFUL = 16.0
"""A colour of this chroma may shift by as much; one of half of it by a quarter, so that black and white stay what they are."""
MOST_GROWTH = 0.25
"""More light raises chroma by at most this share."""
RED = 0.7, 1.2
"""A colour is red whose b* is less than this share of its a*, and less and less so up to the other."""
STEEPEST = 1.4, 1.0
"""Slopes of the curve of lightness at the skin, below it and above."""
NEAR = 11.0
"""A colour this near (CIE76) to the skin's is a tint on it; farther away, less and less."""
SAMPLE = 400
"""At most so many pixels of a canvas tell its light at a place, and at least `LEAST_SAMPLE`, for a slope."""
LEAST_SAMPLE = 20


class Light:
    """Brings one lesion into any light; what depends on the lesion alone is computed once.

    Args:
        part: (h, w) bool, the pixels of its window that are pasted.
    """

    def __init__(self, lesion: Lesion, part: np.ndarray):
        self.part = part
        lab, skin = rgb_to_lab(lesion.pixels[part]), lesion.light[part]
        self.skin = skin.mean(0)
        self._chroma, self._skin_chroma = lab[:, 1:], skin[:, 1:]
        length, most = delta_e(self._chroma, 0.0), np.maximum(delta_e(self._skin_chroma, 0.0), LEAST_CHROMA)
        along = (self._chroma * self._skin_chroma).sum(-1) / most**2
        outside = ndimage.distance_transform_edt(~lesion.shape)[part] / lesion.edge
        self._share, self._most = smooth_step(along)[:, None], (length**2 / COLOURFUL)[:, None]
        self._tint = np.maximum(np.exp(-((delta_e(lab, skin) / NEAR) ** 2)), smooth_step(outside))[:, None]
        self._fades = 1 - np.maximum(self._share, self._tint)
        level = self._level(skin[:, 0], self.skin[0])
        self._darker = lab[:, 0] < level
        self._grows = (1 - self._tint) * (np.minimum(length / COLOURFUL, 1) * self._darker)[:, None]
        self._lightness = np.maximum(lab[:, 0], 1)[:, None]
        self._way = np.where(self._darker, 1 - lab[:, 0] / level, (lab[:, 0] - level) / (100 - level)).clip(0, 1)
        # what is red turns towards brown with the skin, and never towards purple
        a, b = self._chroma.T
        warm = (a > 0) & (b > 0)
        self._slope = np.divide(b, a, out=np.full(len(a), RED[1]), where=warm).clip(0, RED[1])
        self._red = warm * smooth_step((RED[1] - self._slope) / (RED[1] - RED[0])) * (1 - self._tint[:, 0])
        self.place = plane_terms(np.argwhere(part), lesion.shape.shape)
        self.sampled = np.arange(0, len(self.place), -(-len(self.place) // SAMPLE))
        self._solve = np.linalg.pinv(self.place[self.sampled])

    def _level(self, lightness: np.ndarray, middle: float) -> np.ndarray:
        """Lightness of the skin that a pixel's is measured by: that of its place for a tint; the window's for pigment, whose parts
        so keep their order whatever the light's slope."""
        return (middle + self._tint[:, 0] * (lightness - middle)).clip(1, 99)

    def plane(self, colours: np.ndarray, usable: np.ndarray) -> np.ndarray:
        """The light of a place as coefficients (3, 3) of a plane in CIELAB.

        Args:
            colours: (n, 3) uint8, the canvas at the `sampled` pixels.
            usable: (n,) bool, which of them are skin of the canvas.
        """
        if usable.all() or not usable.any():
            return self._solve @ rgb_to_lab(colours)
        lab = rgb_to_lab(colours[usable])
        if len(lab) < LEAST_SAMPLE:
            return np.stack([lab.mean(0), np.zeros(3), np.zeros(3)])
        return np.linalg.lstsq(self.place[self.sampled][usable], lab, rcond=None)[0]

    def __call__(self, plane: np.ndarray) -> np.ndarray:
        """The lesion's pixels (n, 3) uint8 of `part`, in reading order, in the light of a plane."""
        skin = self.place @ plane
        lightness = self._level(skin[:, 0], plane[0, 0])
        here, there = self.skin[0].clip(1, 99), float(plane[0, 0].clip(1, 99))
        # the curve starts from the skin no steeper than this, so that its texture keeps its strength
        slope = np.where(
            self._darker, min(1.0, STEEPEST[0] * here / there), min(1.0, STEEPEST[1] * (100 - here) / (100 - there))
        )
        bent = self._way * (slope + (1 - slope) * self._way)
        lab = np.empty((len(bent), 3))
        lab[:, 0] = lightness + np.where(self._darker, -lightness, 100 - lightness) * bent
        # less light makes blue and grey no more colourful than they were, and more light makes no colour pale
        ratio = (lab[:, :1] / self._lightness - 1).clip(-1, MOST_GROWTH)
        fade = 1 + np.where(ratio < 0, self._fades, self._grows) * ratio
        shift = skin[:, 1:] - self._skin_chroma
        share = np.minimum(self._share, self._most / np.maximum(delta_e(shift, 0.0), 1e-6)[:, None])
        lab[:, 1:] = fade * self._chroma + np.maximum(share, self._tint) * shift
        lab[:, 2] += self._red * (lab[:, 1] * self._slope - lab[:, 2]).clip(0)
        return unclipped_rgb(lab)


def smooth_step(values: np.ndarray) -> np.ndarray:
    """0 up to 0, 1 from 1 on, and a smooth rise between."""
    values = values.clip(0, 1)
    return values * values * (3 - 2 * values)


def plane_terms(points: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Terms (n, 3) of a plane at pixels (n, 2): 1, and both coordinates from -1 to 1 about the window's centre."""
    return np.column_stack([np.ones(len(points)), 2 * points / np.maximum(np.array(shape) - 1, 1) - 1])
