"""Masks and their uncertainty drawn over the photo, for a person to judge."""

import numpy as np

from cgddi.core.images import BACKGROUND, CLASS_COLOURS


def overlay(photo: np.ndarray, mask: np.ndarray, fill: float = 0.22) -> np.ndarray:
    """The photo with every class but the background tinted, and outlined where it meets another.

    Args:
        photo: (H, W, 3) uint8.
        mask: (H, W) uint8 class ids.
        fill: weight of the tint, 0 to 1.

    Returns:
        (H, W, 3) uint8.
    """
    palette = np.array(list(CLASS_COLOURS.values()), float)
    weights = np.full(len(palette), fill)
    weights[BACKGROUND] = 0
    weight = np.where(_outline(mask) & (weights[mask] > 0), 1.0, weights[mask])[..., None]
    return np.rint(photo * (1 - weight) + palette[mask] * weight).astype(np.uint8)


def heat(photo: np.ndarray, uncertainty: np.ndarray) -> np.ndarray:
    """The photo in grey, with magenta where the mask is uncertain.

    Args:
        photo: (H, W, 3) uint8.
        uncertainty: (H, W) uint8, 255 the least certain.
    """
    grey = np.repeat(photo.mean(-1, keepdims=True) * 0.7, 3, -1)
    weight = uncertainty[..., None] / 255
    return np.rint(grey * (1 - weight) + np.array([255, 0, 200]) * weight).astype(np.uint8)


def _outline(mask: np.ndarray) -> np.ndarray:
    edge = np.zeros(mask.shape, bool)
    edge[1:] |= mask[1:] != mask[:-1]
    edge[:, 1:] |= mask[:, 1:] != mask[:, :-1]
    return edge
