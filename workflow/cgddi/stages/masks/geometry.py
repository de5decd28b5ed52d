"""Photo and mask to working size, and a mask back to its photo."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from PIL import Image

from cgddi.core.images import BACKGROUND

ASPECT_TOLERANCE = 0.03


def centre_square(width: int, height: int) -> tuple[int, int, int, int]:
    """Box (left, upper, right, lower) of the central square."""
    side = min(width, height)
    left, upper = (width - side) // 2, (height - side) // 2
    return left, upper, left + side, upper + side


def cropped(photo: Image.Image, crop: str) -> Image.Image:
    """The part of a photo that the working size shows: all of it ("resize") or its central square ("square")."""
    return photo.crop(centre_square(*photo.size)) if crop == "square" else photo


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


def to_photo(mask: np.ndarray, facts: Mapping[str, Any]) -> np.ndarray:
    """A mask at working size, brought back onto its photo by nearest-neighbour sampling: the inverse of `mask_to_size`.

    Args:
        mask: (size, size) class ids.
        facts: the row's `width`, `height` and `crop`.

    Returns:
        (height, width) uint8; what a square crop cut away is background. `mask_to_size` gives the mask back exactly where the
        photo is nowhere smaller than the working size.
    """
    width, height = facts["width"], facts["height"]
    if facts["crop"] == "resize":
        return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
    left, upper, right, lower = centre_square(width, height)
    whole = np.full((height, width), BACKGROUND, np.uint8)
    whole[upper:lower, left:right] = np.asarray(
        Image.fromarray(mask).resize((right - left, lower - upper), Image.Resampling.NEAREST)
    )
    return whole
