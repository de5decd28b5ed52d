"""A donor's lesion, cut out and ready to be pasted: its pixels, paste weight and shape."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from cgddi.core.placement import Runs, runs_of
from cgddi.core.skin import SIDE
from cgddi.stages.lesion_mapped.donor import Donor, NoLesion, study
from cgddi.stages.lesion_mapped.settings import LesionMappedSettings

BOX = np.ones((3, 3), bool)
EDGE = 6.0
"""Px over which a lesion passes into the skin around it, in a picture of 512 px."""


@dataclass(frozen=True)
class Lesion:
    """A lesion in a window: its bounding box plus `margin` px on each side, continued beyond the photo by its edge pixels.

    Args:
        pixels: (h, w, 3) uint8, the donor's photo in the window.
        weight: (h, w) uint8, paste weight: 255 the donor's pixel alone, 0 the canvas's.
        shape: (h, w) bool, the lesion itself.
        light: (h, w, 3) CIELAB, the donor's skin as it is lit at each pixel; None where nobody asks.
        margin: px between the window's edge and the lesion's bounding box.
        edge: px over which the lesion passes into the skin around it.
        halo: px that the surroundings fade over, 0 where there is no halo.
        left_behind: pixels that would have been pasted (a weight over 0.2) but for ink, rulers, cloth and other lesions.
    """

    pixels: np.ndarray
    weight: np.ndarray
    shape: np.ndarray
    light: np.ndarray | None
    margin: int
    edge: float
    halo: float = 0.0
    left_behind: int = 0

    @cached_property
    def runs(self) -> Runs:
        """Runs of the lesion, for placement."""
        return runs_of(self.shape)


def cut_out(
    photo: np.ndarray, mask: np.ndarray, settings: LesionMappedSettings, scale: float = 1.0, rotation: float = 0.0
) -> Lesion:
    """Cut the lesion out of its photo, scaled and rotated about its centre (see `study` and `cut`)."""
    return cut(study(photo, mask, settings), settings, scale, rotation)


def cut(donor: Donor, settings: LesionMappedSettings, scale: float = 1.0, rotation: float = 0.0) -> Lesion:
    """Cut a donor's lesion out, scaled and rotated about its centre.

    Args:
        donor: from `study`.
        rotation: degrees, counter-clockwise.

    Raises:
        NoLesion: nothing of it is left at this scale.
    """
    halo = donor.halo * scale
    margin = max(settings.dilate + int(4 * settings.blur + 0.5), int(np.ceil(halo)))
    if scale != 1 or rotation != 0:
        donor = _turned(donor, scale, rotation, margin)
        if not donor.lesion.any():
            raise NoLesion(f"nothing of the lesion is left at scale {scale:.3f}")
    rows, columns = np.flatnonzero(donor.lesion.any(1)), np.flatnonzero(donor.lesion.any(0))
    box = np.s_[rows[0] : rows[-1] + 1 + 2 * margin, columns[0] : columns[-1] + 1 + 2 * margin]

    def window(plane: np.ndarray, mode: str = "edge") -> np.ndarray:
        return np.pad(plane, ((margin, margin),) * 2 + ((0, 0),) * (plane.ndim - 2), mode=mode)[box]

    shape = window(donor.lesion, "constant")
    weight = paste_weight(shape, settings.dilate, settings.blur)
    if halo:
        weight = np.maximum(weight, halo_weight(shape, halo))
    wanted = weight
    if donor.behind is not None:
        weight = np.rint(weight * (1 - window(donor.behind))).astype(np.uint8)
    return Lesion(
        pixels=window(donor.photo),
        weight=weight,
        shape=shape,
        light=None if donor.light is None else window(donor.light),
        margin=margin,
        edge=max(1.0, EDGE * settings.image_size / SIDE),
        halo=halo,
        left_behind=int(((wanted > 51) & (weight <= 51)).sum()),
    )


def paste_weight(shape: np.ndarray, dilate: int, blur: float) -> np.ndarray:
    """Paste weight (h, w) uint8 of a lesion: 3x3 dilations, then a Gaussian (truncated at four sigma)."""
    grown = ndimage.binary_dilation(shape, BOX, iterations=dilate) if dilate else shape
    return np.rint(ndimage.gaussian_filter(grown * 255.0, blur, mode="constant", truncate=4.0)).astype(np.uint8)


def halo_weight(shape: np.ndarray, reach: float) -> np.ndarray:
    """Paste weight (h, w) uint8 that falls off softly from the lesion and the holes in it to so many px away."""
    away = ndimage.distance_transform_edt(~ndimage.binary_fill_holes(shape))
    return np.rint(255 * np.cos(np.pi / 2 * (away / reach).clip(0, 1)) ** 4).astype(np.uint8)


def _turned(donor: Donor, scale: float, rotation: float, margin: int) -> Donor:
    """A donor resampled about the lesion's centre into a frame that holds all of the lesion and its margin."""
    points = np.argwhere(donor.lesion)
    centre = (points.min(0) + points.max(0)) / 2
    reach = scale * np.sqrt((((points - centre) ** 2).sum(1)).max())
    side = 2 * int(np.ceil(reach) + margin + 2) + 1
    turn = np.deg2rad(rotation)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / scale
    offset = centre - matrix @ np.full(2, side // 2)
    smooth = max(0.0, (1 / scale - 1) / 2)  # keeps a shrunk lesion free of aliasing

    def turned(plane: np.ndarray, order: int = 1, mode: str = "nearest") -> np.ndarray:
        if plane.ndim == 3:
            return np.stack([turned(plane[..., channel], order, mode) for channel in range(plane.shape[-1])], -1)
        return ndimage.affine_transform(plane, matrix, offset, (side, side), order=order, mode=mode)

    photo = donor.photo.astype(np.float64)
    photo = ndimage.gaussian_filter(photo, (smooth, smooth, 0)) if smooth > 0.1 else photo
    return Donor(
        photo=np.rint(turned(photo)).clip(0, 255).astype(np.uint8),
        lesion=turned(donor.lesion.astype(np.uint8), 0, "constant").astype(bool),
        light=None if donor.light is None else turned(donor.light),
        behind=None if donor.behind is None else turned(donor.behind).clip(0, 1),
        halo=donor.halo,
    )
