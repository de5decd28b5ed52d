"""Judges of a drawn picture: does it show a lesion that its canvas has not, is it skin all over, and is it a photo it learnt from?

Pictures are brought to one working size first, and every length is a share of its side, so that a picture of 1024 px is judged as
the same one of 256 px. Colours are CIELAB, differences CIE76.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage

from cgddi.core.colour import rgb_to_lab
from cgddi.core.images import BACKGROUND, RULER

SIDE = 64
"""Longer side in px at which pictures are judged; smaller ones are judged as they are."""
SIZES = (1 / 32, 1 / 20, 1 / 12, 1 / 8, 1 / 5)
"""Gaussian sigmas of the places looked at, as shares of the side: spots of about 4 % to 30 % of the picture across."""
AROUND = 2.5
"""Sigma of what a place is compared with, over that of the place."""
INSIDE = 0.6
"""Share of a place that must be usable."""


def usable(mask: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """Where a sample on a canvas is skin or lesion: bool (H, W), all but background and ruler of the canvas's mask (H, W)."""
    return np.ones(shape, bool) if mask is None else ~np.isin(mask, (BACKGROUND, RULER))


@dataclass(frozen=True)
class View:
    """A picture at working size.

    Args:
        lab: (h, w, 3).
        weight: (h, w), share of each pixel that is usable.
    """

    lab: np.ndarray
    weight: np.ndarray

    @property
    def side(self) -> int:
        """The longer side in px."""
        return max(self.weight.shape)


def view(rgb: np.ndarray, part: np.ndarray) -> View:
    """A picture (H, W, 3) uint8 and its usable part (H, W) bool at working size, by averaging areas."""
    height, width = part.shape
    share = SIDE / max(height, width)
    if share >= 1:
        return View(rgb_to_lab(rgb), part * 1.0)
    size = max(1, round(width * share)), max(1, round(height * share))
    small = Image.fromarray(rgb).resize(size, Image.Resampling.BOX)
    weight = Image.fromarray((part * 255).astype(np.uint8)).resize(size, Image.Resampling.BOX)
    return View(rgb_to_lab(np.asarray(small)), np.asarray(weight) / 255.0)


def contrasts(picture: View) -> np.ndarray:
    """Mean colour of each place less that around it, (sizes, h, w, 3); 0 where too little of the place is usable."""
    stacked = np.concatenate([picture.lab * picture.weight[..., None], picture.weight[..., None]], axis=-1)
    whole = np.ones(picture.weight.shape)
    found = []
    for size in SIZES:
        place, around = (_blurred(stacked, size * picture.side * times) for times in (1, AROUND))
        mean, outside = (part[..., :3] / np.maximum(part[..., 3:], 1e-6) for part in (place, around))
        enough = place[..., 3] > INSIDE * _blurred(whole, size * picture.side)
        found.append((mean - outside) * (enough & (picture.weight > 0.5))[..., None])
    return np.stack(found)


def _blurred(values: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian of an image (h, w) or (h, w, channels) with nothing outside of it."""
    return ndimage.gaussian_filter(values, (sigma, sigma, *[0] * (values.ndim - 2)), mode="constant")


def presence(sample: View, canvas: np.ndarray) -> float:
    """Colour difference of the most conspicuous place of a sample that is not as conspicuous on its canvas.

    At every place and size: the smaller one of the sample's contrast to what is around, and of its change against the canvas. So
    neither what the canvas shows already counts as a lesion, nor what vanished from it.

    Args:
        sample: the sample, its usable part that of the canvas.
        canvas: `contrasts` of the canvas.

    Returns:
        A CIELAB difference, 0 and more.
    """
    own = contrasts(sample)
    change = own - canvas
    return float(np.sqrt(np.minimum((own**2).sum(-1), (change**2).sum(-1)).max()))
