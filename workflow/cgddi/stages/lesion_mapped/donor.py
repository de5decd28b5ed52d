"""A donor's photo, once per job: where its lesion is, the light on its skin, how far its halo reaches, and what stays behind."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from cgddi.core.colour import rgb_to_lab
from cgddi.core.images import LESION, SKIN
from cgddi.core.skin import BLOTCH, LEAST_SIGMA, grown, lighting, local_mean, plain_skin, scale_of
from cgddi.stages.lesion_mapped.settings import LesionMappedSettings

CLEAR = 24
"""Skin this far from the lesion tells the light; lengths in px are for a photo of 512 px and grow and shrink with it."""
LEAST_CLEAR = 0.03
"""Where less of the photo than this is so far away, all its skin tells the light."""
BLUISH = 12.0
"""Ink is darker than the skin and bluer than grey, and its b* lies this far below that of the skin as it is lit there."""
STRANGE = 14.0, 4.0
"""Skin apart from the lesion that differs from the light this much (CIE76), and so many times the median, is something else."""
TOUCHING = 3
"""Px between the lesion and what still belongs to it."""
SEEN = 2.5, 1.5
"""A halo ends where its colour differs no more than this (CIE76), or so many times the skin's own median difference."""
GAP = 4
"""Px of a halo that may look like the rest of the skin, between a pale and a red ring."""
LONGEST = 0.8, 0.1
"""A halo is followed for this share of the lesion's radius, and of the photo's side, at most."""
BEHIND = 1.5, 3.0
"""Up to this far, in px, from what stays behind nothing is pasted; over so many px more the paste comes back."""


class NoLesion(Exception):
    """The donor cannot give a lesion; the text says why. The pair is skipped and recorded."""


@dataclass(frozen=True)
class Donor:
    """A donor's photo and what is known of it.

    Args:
        photo: (H, W, 3) uint8.
        lesion: (H, W) bool; its parts move as one.
        light: (H, W, 3) CIELAB of the skin as it is lit at each pixel; None where nobody asks.
        behind: (H, W) float, 1 where nothing is pasted (ink, ruler, cloth, other lesions), 0 where all is; None likewise.
        halo: px that the lesion's surroundings fade over; 0: there is no halo.
    """

    photo: np.ndarray
    lesion: np.ndarray
    light: np.ndarray | None = None
    behind: np.ndarray | None = None
    halo: float = 0.0


def lesion_of(mask: np.ndarray) -> np.ndarray:
    """The lesion of a five-class mask as booleans; its parts move as one.

    Raises:
        NoLesion: the mask has none, or nothing else.
    """
    lesion = mask == LESION
    if not lesion.any():
        raise NoLesion("the donor's mask has no lesion at this size")
    if lesion.all():
        raise NoLesion("the lesion covers the donor's whole image: there is no outline to cut along")
    return lesion


def study(photo: np.ndarray, mask: np.ndarray, settings: LesionMappedSettings) -> Donor:
    """Look at a donor's photo, as far as the settings use it.

    Args:
        photo: (H, W, 3) uint8.
        mask: (H, W) uint8, five classes.

    Raises:
        NoLesion: there is none, or it covers the image.
    """
    lesion = lesion_of(mask)
    if not (settings.lighting_match or settings.halo or settings.leave_behind):
        return Donor(photo, lesion)
    lab, scale, skin = rgb_to_lab(photo), scale_of(mask.shape), mask == SKIN
    if not skin.any():
        skin = ~lesion
    clear = skin & ~grown(lesion, CLEAR * scale)
    plain = plain_skin(lab, clear if clear.mean() >= LEAST_CLEAR else skin)
    sigma = max(LEAST_SIGMA, BLOTCH * scale)
    light = lighting(local_mean(lab, plain, sigma), plain)
    off = local_mean(lab, skin, sigma) - light
    differs = np.sqrt((off**2).sum(-1))
    usual = float(np.median(differs[plain]))
    other = ~(lesion | skin)
    if settings.leave_behind:
        fine = local_mean(lab, skin, max(LEAST_SIGMA, scale))
        ink = (fine[..., 0] < light[..., 0]) & (fine[..., 2] < np.minimum(light[..., 2] - BLUISH, 0))
        other |= _apart(skin & ink, lesion, TOUCHING * scale)
    halo = _halo(differs, lesion, skin & ~other, usual) if settings.halo else 0.0
    if settings.leave_behind:
        strange = skin & (differs > max(STRANGE[0], STRANGE[1] * usual))
        other |= _apart(strange, lesion, max(TOUCHING * scale, halo))
    return Donor(photo, lesion, light, _behind(other, scale) if settings.leave_behind else None, halo)


def _apart(part: np.ndarray, lesion: np.ndarray, reach: float) -> np.ndarray:
    """What of a part (H, W) bool does not hang together with the lesion or what is so many px around it."""
    labels, _ = ndimage.label(part)
    return part & ~np.isin(labels, np.unique(labels[grown(lesion, max(1, reach))]))


def _halo(differs: np.ndarray, lesion: np.ndarray, skin: np.ndarray, usual: float) -> float:
    """How far in px the skin around a lesion looks unlike the rest, and half as far again; 0 where it never does."""
    most = min(LONGEST[0] * np.sqrt(lesion.sum() / np.pi), LONGEST[1] * max(lesion.shape))
    away = np.ceil(ndimage.distance_transform_edt(~lesion)).astype(int)
    end, gap = 0, GAP * scale_of(lesion.shape)
    for far in range(1, int(most) + 1):
        ring = differs[skin & (away == far)]
        if len(ring) and np.median(ring) > max(SEEN[0], SEEN[1] * usual):
            end = far
        elif far - end > gap:
            break
    return float(min(1.5 * end, most))


def _behind(other: np.ndarray, scale: float) -> np.ndarray:
    """How much of the paste stays away (H, W) near what is left behind."""
    if not other.any():
        return np.zeros(other.shape)
    none, ramp = (length * max(1.0, scale) for length in BEHIND)
    return 1 - ((ndimage.distance_transform_edt(~other) - none) / ramp).clip(0, 1)
