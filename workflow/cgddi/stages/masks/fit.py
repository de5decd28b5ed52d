"""Whether a mask belongs to its photo: how much of the photo's colours it explains, beside other crops and other masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from cgddi.core.images import SKIN

SIDE = 64
"""Side in px at which photos and masks of a batch are compared with each other."""


def explained_variance(photo: np.ndarray, mask: np.ndarray) -> float:
    """Share (0 to 1) of the photo's colour variance that the mask's classes explain (eta squared).

    A mask that lies where it should separates the colours of lesion, skin, ruler and background better than one that is
    shifted or stretched.

    Args:
        photo: (H, W, 3) uint8.
        mask: (H, W) uint8 class ids.
    """
    return float(explained_by([photo], [mask])[0, 0])


def explained_by(photos: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> np.ndarray:
    """Share of each photo's colour variance (rows) that each mask (columns) explains; all of one size.

    Args:
        photos: (H, W, 3) uint8.
        masks: (H, W) uint8 class ids.
    """
    colours = np.stack([photo.reshape(-1, 3).astype(np.float64) for photo in photos])
    colours -= colours.mean(1, keepdims=True)
    total = (colours**2).sum((1, 2))
    classes = np.stack([mask.reshape(-1) for mask in masks])
    between = np.zeros((len(photos), len(masks)))
    for class_id in range(SKIN + 1):
        inside = (classes == class_id).astype(np.float64)
        sums = np.einsum("mp,npc->nmc", inside, colours, optimize=True)
        between += (sums**2).sum(-1) / np.maximum(inside.sum(1), 1)
    return np.where(total[:, None] > 0, between / np.where(total > 0, total, 1)[:, None], 0.0)


def thumbnails(photo: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Photo (H, W, 3) and mask (H, W) at the size at which `swapped` compares."""
    small = Image.fromarray(photo).resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small), np.asarray(Image.fromarray(mask).resize((SIDE, SIDE), Image.Resampling.NEAREST))


def swapped(photos: Sequence[np.ndarray], masks: Sequence[np.ndarray], margin: float) -> dict[int, int]:
    """Masks of a batch that seem to have changed places: number of the photo -> number of the mask that fits it.

    The assignment of masks to photos that explains most colour variance is compared with the one given. A circle of masks that
    would move counts when every one of its photos gains more than `margin`: where another mask fits a photo better by chance,
    that photo's own mask seldom fits the other photo better too.

    Args:
        photos: `thumbnails`.
        masks: `thumbnails`, in the same order.
        margin: share of colour variance, 0 to 1.
    """
    if len(photos) < 2:
        return {}
    fit = explained_by(photos, masks)
    if ((fit - np.diag(fit)[:, None]).max(1) > margin).sum() < 2:  # too few for a circle, whatever the assignment
        return {}
    from scipy.optimize import linear_sum_assignment

    _, best = linear_sum_assignment(-fit)
    gain = fit[np.arange(len(best)), best] - np.diag(fit)
    found: dict[int, int] = {}
    for start in range(len(best)):
        circle = [start]
        while (after := int(best[circle[-1]])) != start:
            circle.append(after)
        if len(circle) > 1 and all(gain[number] > margin for number in circle):
            found.update({number: int(best[number]) for number in circle})
    return dict(sorted(found.items()))
