"""What can be said about a five-class mask: flags, class shares, specks, and whether it belongs to its photo."""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from scipy import ndimage

from cgddi.core.images import BACKGROUND, LESION, MARKER, RULER, SKIN

LARGE_LESION = 0.5
"""Share of the image above which a lesion is flagged `lesion_over_half`."""

UNUSABLE = ("no_lesion", "no_skin")
"""An automatic mask with one of these flags is not used: its photo becomes neither donor nor canvas."""

SPECK = 0.0001
"""Parts of an automatic mask below this share of the image go to what is around them (sDDI's smallest lesion is 0.00024)."""

FIT_MARGIN = 0.15
"""Share of colour variance by which another crop, or another photo's mask, must fit better to be named."""

THUMBNAIL = 64
"""Side in px at which photos and masks of a batch are compared with each other."""

CONNECTED = np.ones((3, 3), bool)


def mask_flags(mask: np.ndarray) -> list[str]:
    """What an (H, W) five-class mask is flagged with: no_lesion, lesion_over_half, several_parts, touches_border, no_skin ..."""
    lesion = mask == LESION
    flags = []
    if not lesion.any():
        flags.append("no_lesion")
    else:
        if lesion.mean() > LARGE_LESION:
            flags.append("lesion_over_half")
        if lesion.all():
            flags.append("lesion_covers_image")
        if ndimage.label(lesion, CONNECTED)[1] > 1:
            flags.append("several_parts")
        if lesion.sum() > lesion[1:-1, 1:-1].sum():
            flags.append("touches_border")
    if not (mask == SKIN).any():
        flags.append("no_skin")
    return flags


def class_shares(mask: np.ndarray) -> list[float]:
    """Shares (0 to 1) of background, lesion, marker, ruler and skin, rounded to 6 digits."""
    counts = np.bincount(mask.reshape(-1), minlength=SKIN + 1)[BACKGROUND : SKIN + 1]
    return [round(float(count) / mask.size, 6) for count in counts]


def despeckled(mask: np.ndarray, share: float = SPECK) -> np.ndarray:
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
    small = Image.fromarray(photo).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BOX)
    return np.asarray(small), np.asarray(Image.fromarray(mask).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.NEAREST))


def swapped(photos: Sequence[np.ndarray], masks: Sequence[np.ndarray], margin: float = FIT_MARGIN) -> dict[int, int]:
    """Masks of a batch that seem to have changed places: number of the photo -> number of the mask that fits it.

    The assignment of masks to photos that explains most colour variance is compared with the one given. A circle of masks that
    would move counts when every one of its photos gains more than `margin`: where another mask fits a photo better by chance,
    that photo's own mask seldom fits the other photo better too.

    Args:
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
    moved: dict[int, int] = {}
    for start in range(len(best)):
        circle = [start]
        while (after := int(best[circle[-1]])) != start:
            circle.append(after)
        if len(circle) > 1 and all(gain[number] > margin for number in circle):
            moved.update({number: int(best[number]) for number in circle})
    return dict(sorted(moved.items()))
