"""Photo and mask to working size, and what can be said about how they fit."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from cgddi.images import BACKGROUND, LESION, SKIN

CONNECTED = np.ones((3, 3), bool)
ASPECT_TOLERANCE = 0.03


def centre_square(width: int, height: int) -> tuple[int, int, int, int]:
    """Box (left, upper, right, lower) of the central square."""
    side = min(width, height)
    left, upper = (width - side) // 2, (height - side) // 2
    return left, upper, left + side, upper + side


def photo_to_size(photo: Image.Image, size: int, crop: str) -> np.ndarray:
    """A photo as (size, size, 3) uint8, by Lanczos resampling of the whole ("resize") or its central square ("square")."""
    box = centre_square(*photo.size) if crop == "square" else None
    return np.asarray(photo.resize((size, size), Image.Resampling.LANCZOS, box=box))


def same_shape(photo: tuple[int, int], mask: tuple[int, int]) -> bool:
    """Whether a mask of (width, height) has the photo's aspect ratio, within 3%."""
    return abs(photo[0] * mask[1] / (photo[1] * mask[0]) - 1) <= ASPECT_TOLERANCE


def mask_to_size(mask: np.ndarray, photo: tuple[int, int], size: int, crop: str) -> np.ndarray | None:
    """A mask as (size, size) uint8 by nearest-neighbour sampling, or None when it cannot belong to the photo.

    Args:
        mask: (H, W) class ids; a square one covers what `crop` says, one of the photo's shape covers the photo.
        photo: (width, height) of the upright photo.
    """
    height, width = mask.shape
    picture = Image.fromarray(mask)
    if width != height:
        if not same_shape(photo, (width, height)):
            return None
        if crop == "square":
            picture = picture.crop(centre_square(width, height))
    return np.asarray(picture.resize((size, size), Image.Resampling.NEAREST))


def explained_variance(photo: np.ndarray, mask: np.ndarray) -> float:
    """Share (0 to 1) of the photo's colour variance that the mask's classes explain (eta squared).

    A mask that lies where it should separates the colours of lesion, skin, ruler and background better than one that is
    shifted or stretched.
    """
    colours = photo.reshape(-1, 3).astype(np.float64)
    total = ((colours - colours.mean(0)) ** 2).sum()
    if total == 0:
        return 0.0
    within = 0.0
    labels = mask.reshape(-1)
    for class_id in np.unique(labels):
        part = colours[labels == class_id]
        within += ((part - part.mean(0)) ** 2).sum()
    return float(1 - within / total)


def mask_flags(mask: np.ndarray) -> list[str]:
    """What a later stage should know about a five-class mask.

    Returns:
        Any of no_lesion, lesion_over_half, several_parts, touches_border, no_skin, lesion_covers_image.
    """
    lesion = mask == LESION
    flags = []
    if not lesion.any():
        flags.append("no_lesion")
    else:
        if lesion.mean() > 0.5:
            flags.append("lesion_over_half")
        if lesion.all():
            flags.append("lesion_covers_image")
        if ndimage.label(lesion, CONNECTED)[1] > 1:
            flags.append("several_parts")
        if lesion[[0, -1]].any() or lesion[:, [0, -1]].any():
            flags.append("touches_border")
    if not (mask == SKIN).any():
        flags.append("no_skin")
    return flags


def class_shares(mask: np.ndarray) -> list[float]:
    """Shares (0 to 1) of background, lesion, marker, ruler and skin, rounded to 6 digits."""
    counts = np.bincount(mask.reshape(-1), minlength=SKIN + 1)[BACKGROUND : SKIN + 1]
    return [round(float(count) / mask.size, 6) for count in counts]
