"""What a later stage should know about a five-class mask, and the clearing of specks from an automatic one."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from cgddi.core.images import BACKGROUND, LESION, MARKER, RULER, SKIN
from cgddi.stages.masks.settings import FlagSettings

CONNECTED = np.ones((3, 3), bool)


def mask_flags(mask: np.ndarray, settings: FlagSettings | None = None) -> list[str]:
    """Flags of a five-class mask.

    Args:
        mask: (H, W) class ids.
        settings: thresholds; None: the defaults.

    Returns:
        Any of no_lesion, lesion_over_half, lesion_covers_image, several_parts, touches_border, no_skin.
    """
    settings = settings or FlagSettings()
    lesion = mask == LESION
    flags = []
    if lesion.mean() <= settings.least_lesion:
        flags.append("no_lesion")
    else:
        if lesion.mean() > settings.large_lesion:
            flags.append("lesion_over_half")
        if lesion.all():
            flags.append("lesion_covers_image")
        parts = np.bincount(ndimage.label(lesion, CONNECTED)[0].reshape(-1))[1:]
        if (parts > settings.least_part * mask.size).sum() > 1:
            flags.append("several_parts")
        inner = lesion[settings.border : -settings.border, settings.border : -settings.border]
        if lesion.sum() > inner.sum():
            flags.append("touches_border")
    if (mask == SKIN).mean() <= settings.least_skin:
        flags.append("no_skin")
    return flags


def class_shares(mask: np.ndarray) -> list[float]:
    """Shares (0 to 1) of background, lesion, marker, ruler and skin, rounded to 6 digits."""
    counts = np.bincount(mask.reshape(-1), minlength=SKIN + 1)[BACKGROUND : SKIN + 1]
    return [round(float(count) / mask.size, 6) for count in counts]


def despeckled(mask: np.ndarray, share: float) -> np.ndarray:
    """The mask with parts of lesion, marker and ruler (8-connected) below a share of the image given to what is around them.

    Args:
        mask: (H, W) uint8 class ids.
        share: share of the image, 0 to 1.
    """
    specks = np.zeros(mask.shape, bool)
    for class_id in (LESION, MARKER, RULER):
        labels, _ = ndimage.label(mask == class_id, CONNECTED)
        small = np.bincount(labels.reshape(-1)) < share * mask.size
        small[0] = False
        specks |= small[labels]
    if not specks.any() or specks.all():
        return mask
    nearest = ndimage.distance_transform_edt(specks, return_distances=False, return_indices=True)
    return mask[tuple(nearest)]
