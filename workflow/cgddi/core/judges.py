"""Judges of a drawn picture: does it show a lesion that its canvas has not, is it skin all over, and is it a photo it learnt from?

Pictures are brought to one working size first, and every length is a share of its side, so that a picture of 1024 px is judged as
the same one of 256 px. Colours are CIELAB, differences CIE76.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image

from cgddi.core.colour import rgb_to_lab
from cgddi.core.images import BACKGROUND, MARKER, RULER

SIDE = 64
"""Longer side in px at which pictures are judged; smaller ones are judged as they are."""
SIZES = (1 / 32, 1 / 20, 1 / 12, 1 / 8, 1 / 5)
"""Gaussian sigmas of the places looked at, as shares of the side: spots of about 4 % to 30 % of the picture across."""
AROUND = 2.5
"""Sigma of what a place is compared with, over that of the place."""
INK_AROUND = 1 / 40
"""How far around ink a photo is not judged, as a share of its side."""
INSIDE = 0.6
"""Share of a place that must be usable."""


def usable(mask: np.ndarray | None, shape: tuple[int, int]) -> np.ndarray:
    """Where a sample on a canvas is skin or lesion: bool (H, W), all but background and ruler of the canvas's mask (H, W)."""
    return np.ones(shape, bool) if mask is None else ~np.isin(mask, (BACKGROUND, RULER))


def bare(mask: np.ndarray) -> np.ndarray:
    """Where a real photo with this mask (H, W) shows skin or lesion and no ink near: bool (H, W). On its canvas the ink is gone."""
    ink = mask == MARKER
    for _ in range(max(1, round(max(mask.shape) * INK_AROUND))):
        ink = _grown(ink)
    return usable(mask, mask.shape) & ~ink


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
    """Gaussian of an image (h, w) or (h, w, channels) with nothing outside of it: as two products with matrices, since of so few
    pixels and so wide a blur that is ten times faster than a convolution."""
    down, across = (_gaussian(length, sigma) for length in values.shape[:2])
    along = np.tensordot(down, values, 1)
    return np.moveaxis(np.tensordot(across, along, (1, 1)), 0, 1)


@lru_cache(64)
def _gaussian(length: int, sigma: float) -> np.ndarray:
    """(length, length): row i weighs all pixels by their distance to pixel i; weights outside are left out, not made up for."""
    far = np.arange(1 - length, length)
    weight = np.exp(-0.5 * (far / sigma) ** 2)
    whole = np.exp(-0.5 * (np.arange(-int(8 * sigma) - 1, int(8 * sigma) + 2) / sigma) ** 2).sum()
    place = np.arange(length)
    return weight[place[None] - place[:, None] + length - 1] / whole


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


# ---- nothing but skin and a lesion -----------------------------------------------------------------------------------------

FINE_SIDE = 256
"""Longer side in px at which texture is judged."""
FINE = 1 / 64
"""Sigma of the blur that texture is the rest of, as a share of the side."""
STRANGE = 15.0
"""Colour difference to the picture's median from which a pixel may belong to a ruler, a cloth or ink."""
SPECK = 8.0
"""A speck is this many median absolute deviations of the texture away."""


def traits(rgb: np.ndarray, part: np.ndarray) -> dict[str, float]:
    """What tells pictures with drawing faults from photos, each with its usual value in photos of a kind.

    Args:
        rgb: (H, W, 3) uint8.
        part: bool (H, W), what is measured (see `usable`).

    Returns:
        saturation, brightness, darkness, blueness, greenness: how far the most extreme hundredth of the pixels lies from the
        median, in chroma, lightness (up and down), b* and a* (down); strip: share in strange colours that reach the border;
        texture: log of the fine texture's spread; specks: share of pixels that stand out of it.
    """
    coarse = view(rgb, part)
    inside = coarse.weight > 0.5
    if not inside.any():
        inside = np.ones_like(inside)
    lab = coarse.lab[inside]
    middle = np.median(lab, axis=0)
    chroma = np.hypot(lab[:, 1], lab[:, 2])
    strange = inside & (np.linalg.norm(coarse.lab - middle, axis=-1) > STRANGE)
    strip = strange & _border(strange.shape)
    while (more := _grown(strip) & strange).sum() > strip.sum():
        strip = more
    fine = _fine(rgb, part)
    spread = float(np.median(np.abs(fine))) + 0.05
    return {
        "saturation": float(np.quantile(chroma, 0.99) - np.median(chroma)),
        "brightness": float(np.quantile(lab[:, 0], 0.99) - middle[0]),
        "darkness": float(middle[0] - np.quantile(lab[:, 0], 0.01)),
        "blueness": float(middle[2] - np.quantile(lab[:, 2], 0.01)),
        "greenness": float(middle[1] - np.quantile(lab[:, 1], 0.01)),
        "strip": float(strip.sum() / inside.sum()),
        "texture": float(np.log(spread)),
        "specks": float((np.abs(fine) > SPECK * spread).mean()),
    }


def _grown(part: np.ndarray) -> np.ndarray:
    """A part (h, w) with the pixels above, below and beside its own."""
    grown = part.copy()
    for axis in (0, 1):
        here, there = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        grown[there] |= part[here]
        grown[here] |= part[there]
    return grown


def _border(shape: tuple[int, int]) -> np.ndarray:
    """The outermost pixels."""
    found = np.ones(shape, bool)
    found[1:-1, 1:-1] = False
    return found


def _fine(rgb: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Lightness less its local mean, of the pixels of a part; (n,)."""
    height, width = part.shape
    share = min(1.0, FINE_SIDE / max(height, width))
    size = max(1, round(width * share)), max(1, round(height * share))
    small = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX))
    inside = np.asarray(Image.fromarray(part).resize(size, Image.Resampling.NEAREST))
    if not inside.any():
        inside = np.ones_like(inside)
    lightness, weight = rgb_to_lab(small)[..., 0], inside * 1.0
    sigma = FINE * max(size)
    mean = _blurred(lightness * weight, sigma) / np.maximum(_blurred(weight, sigma), 1e-6)
    return (lightness - mean)[inside]


# ---- no copy ---------------------------------------------------------------------------------------------------------------

THUMBNAIL = 16


def thumbnail(rgb: np.ndarray) -> np.ndarray:
    """What a picture is recognised by: colours of its 16 x 16 parts less their median, as a vector of length one; (768,)."""
    small = np.asarray(Image.fromarray(rgb).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX))
    lab = rgb_to_lab(small).reshape(-1, 3)
    vector = (lab - np.median(lab, axis=0)).ravel()
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


def likeness(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Similarity (cosine, -1 to 1) of one thumbnail (768,) to others (n, 768), turned to its mirror image where that is nearer."""
    mirrored = one.reshape(THUMBNAIL, THUMBNAIL, 3)[:, ::-1].ravel()
    return np.maximum(others @ one, others @ mirrored)


# ---- limits ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Limits:
    """What a sample must keep, taken from a run's own real photos (stage calibration).

    Args:
        presence: least colour difference of the lesion.
        angle: tone -> lowest and highest individual typology angle in degrees.
        traits: name -> usual value, and the largest distance from it among the photos (see `traits`).
        strangeness: most distance from the usual of any trait, in that largest distance.
        likeness: most similarity to a photo learnt from.
    """

    presence: float
    angle: Mapping[str, Sequence[float]]
    traits: Mapping[str, Sequence[float]]
    strangeness: float
    likeness: float

    def strangest(self, found: Mapping[str, float]) -> tuple[str, float]:
        """The trait that lies furthest from the usual, and how far, in the photos' largest distance; none where none is known."""
        if not self.traits:
            return "", 0.0
        far = {name: abs(found[name] - usual) / scale for name, (usual, scale) in self.traits.items()}
        name = max(far, key=far.get)
        return name, far[name]


@dataclass(frozen=True)
class Scores:
    """What was measured of a picture.

    Args:
        angle: median individual typology angle, degrees.
        likeness: similarity to the nearest photo learnt from.
        nearest: id of that photo; None: there is none.
    """

    presence: float
    angle: float
    traits: Mapping[str, float]
    likeness: float = -1.0
    nearest: str | None = None


NO_LESION, TONE, ARTEFACTS, COPY = REASONS = ("no lesion", "tone", "artefacts", "copy")


def faults(scores: Scores, tone: str, limits: Limits) -> dict[str, str]:
    """Why a sample fails: reason (of `REASONS`) -> in words; empty: it passes."""
    found = {}
    if scores.presence < limits.presence:
        found[NO_LESION] = f"colour difference {scores.presence:.1f}, real lesions have {limits.presence:.1f}"
    low, high = limits.angle[tone]
    if not low <= scores.angle <= high:
        found[TONE] = f"ITA {scores.angle:.0f} degrees, real photos of {tone} skin have {low:.0f} to {high:.0f}"
    trait, far = limits.strangest(scores.traits)
    if far > limits.strangeness:
        found[ARTEFACTS] = (
            f"{trait} {far:.1f} times as unusual as in any real photo, {limits.strangeness:g} are allowed"
        )
    if scores.likeness > limits.likeness:
        found[COPY] = f"similarity {scores.likeness:.3f} to {scores.nearest}, real photos {limits.likeness:.3f}"
    return found
