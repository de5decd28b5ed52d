"""What of a photo is plain skin: judged by colour beside the photo's own lighting, for masks that know one class only.

Lengths in px are meant for a photo whose longer side is 512 px, and grow and shrink with it (`scale_of`).
"""

import numpy as np
from PIL import Image
from scipy import ndimage

from cgddi.core.colour import rgb_to_lab

SIDE = 512
COARSE, SHADE = 64, 0.5
"""Longer side in px at which large places are judged, and the weight of lightness there, since skin has shades."""
MARGIN = 4
"""Plain skin keeps this far from what is no skin."""
BLOTCH, LEAST_SIGMA = 3.0, 0.7
"""Gaussian sigma of the local colours that are compared with the lighting, and the smallest sigma that smoothes anything."""
STRANGE = 6.0, 3.0
"""A place is unlike the skin when its colour lies this far (CIE76), and so many times the median distance, from the lighting's."""
GRID, LEAST_POINTS = 64, 60
"""A surface of order 2 is fitted to a grid of so many points a side, where that leaves enough points of skin."""
STIFF = 0.01
"""How flat the surface is kept where skin on one side alone says little of its slope, against the points' spread (1: the photo)."""
TRUSTED, ROUNDS = 0.7, 3
"""The share of the points that is nearest to the lighting is what it is fitted to again, so many times."""


def scale_of(shape: tuple[int, ...]) -> float:
    """A photo's longer side over 512."""
    return max(shape[:2]) / SIDE


def grown(mask: np.ndarray, radius: float) -> np.ndarray:
    """All pixels (H, W) bool within a Euclidean distance in px of a mask's."""
    found = mask.copy()
    if mask.any():
        (box,) = ndimage.find_objects(mask.astype(np.int8))
        near = tuple(slice(max(0, side.start - int(radius) - 1), side.stop + int(radius) + 1) for side in box)
        found[near] = ndimage.distance_transform_edt(~mask[near]) <= radius
    return found


def local_mean(values: np.ndarray, part: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian means (H, W, C) of the pixels of one part alone."""
    share = np.maximum(ndimage.gaussian_filter(part * 1.0, sigma), 1e-6)[..., None]
    return ndimage.gaussian_filter(values * part[..., None], (sigma, sigma, 0)) / share


def lighting(colour: np.ndarray, skin: np.ndarray, order: int = 2) -> np.ndarray:
    """The surface (H, W, C) of order 1 or 2 through the skin's colours, robust: fitted anew to the nearer part of them."""
    height, width = skin.shape
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    terms = np.stack([np.ones_like(x), x, y, x * y, x * x, y * y][: 3 if order == 1 else 6], -1)
    step = 1 if order == 1 else max(1, round(max(height, width) / GRID))
    grid = np.zeros_like(skin)
    grid[::step, ::step] = True
    chosen = skin & grid if (skin & grid).sum() >= LEAST_POINTS else skin
    terms[..., 1:] -= terms[chosen][:, 1:].mean(0)
    points, values = terms[chosen], colour[chosen]
    near = np.ones(len(points), bool)
    for _ in range(ROUNDS + 1):
        stiff = np.diag(np.r_[0, np.full(terms.shape[-1] - 1, STIFF * near.sum())])
        fit = np.linalg.solve(points[near].T @ points[near] + stiff, points[near].T @ values[near])
        distance = ((values - points @ fit) ** 2).sum(-1)
        near = distance <= np.quantile(distance, TRUSTED)
    return terms @ fit


def deviation(lab: np.ndarray, skin: np.ndarray, shown: np.ndarray | None = None, order: int = 2) -> np.ndarray:
    """How far (H, W) local colours lie from those of the skin as it is lit there, in CIE76.

    Args:
        lab: (H, W, 3) CIELAB.
        skin: (H, W) bool, what the lighting is fitted to.
        shown: (H, W) bool, what local colours are averaged over; None: the skin.
        order: of the lighting's surface.
    """
    sigma = max(LEAST_SIGMA, BLOTCH * scale_of(lab.shape))
    colour = local_mean(lab, skin if shown is None else shown, sigma)
    return np.sqrt(((colour - lighting(colour, skin, order)) ** 2).sum(-1))


def unlike(lab: np.ndarray, skin: np.ndarray, order: int = 2) -> np.ndarray:
    """Pixels (H, W) bool of the skin that look like something else: another lesion, ink, hair, cloth."""
    distance = deviation(lab, skin, order=order)
    return skin & (distance > max(STRANGE[0], STRANGE[1] * float(np.median(distance[skin]))))


def unlike_at_large(rgb: np.ndarray) -> np.ndarray:
    """Large places (H, W) bool of a photo without any mask that do not look like its skin: lips, an eye, cloth, a dark corner.

    Judged on means over squares, so that hairs, pores and spots do not count.

    Args:
        rgb: (H, W, 3) uint8.
    """
    height, width = rgb.shape[:2]
    share = min(1.0, COARSE / max(height, width))
    size = max(1, round(width * share)), max(1, round(height * share))
    small = rgb_to_lab(np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BOX)))
    small[..., 0] *= SHADE
    strange = unlike(small, np.ones(small.shape[:2], bool), order=1)  # a curved surface would follow a band of cloth
    strange = ndimage.binary_opening(strange, np.ones((3, 3), bool))
    return np.asarray(Image.fromarray(strange).resize((width, height), Image.Resampling.NEAREST))


def plain_skin(lab: np.ndarray, skin: np.ndarray) -> np.ndarray:
    """Where skin is plain (H, W) bool: a margin away from all that is no skin or looks like something else.

    Where that leaves less than a tenth of the skin, looks are not asked for, and then the margin neither.

    Args:
        lab: (H, W, 3) CIELAB.
        skin: (H, W) bool, where the mask says skin.
    """
    reach = max(1, round(MARGIN * scale_of(lab.shape)))
    clear = skin & ~grown(~skin, reach)
    if not clear.any():
        return skin
    plain = clear & ~grown(unlike(lab, clear), reach)
    return plain if plain.sum() > clear.sum() / 10 else clear
