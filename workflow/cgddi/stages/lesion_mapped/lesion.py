"""A donor's lesion, cut out and ready to be pasted: its pixels, paste weight and shape."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from cgddi.core.colour import rgb_to_lab
from cgddi.core.images import LESION, SKIN
from cgddi.core.placement import Runs, runs_of
from cgddi.stages.lesion_mapped.settings import LesionMappedSettings

BOX = np.ones((3, 3), bool)


class NoLesion(Exception):
    """The donor cannot give a lesion; the text says why. The pair is skipped and recorded."""


@dataclass(frozen=True)
class Lesion:
    """A lesion in a window: its bounding box plus `margin` px on each side, continued beyond the photo by its edge pixels.

    Args:
        pixels: (h, w, 3) uint8, the donor's photo in the window.
        weight: (h, w) uint8, paste weight: 255 the donor's pixel alone, 0 the canvas's.
        shape: (h, w) bool, the lesion itself.
        skin: (h, w) bool, the donor's skin around it.
        margin: px between the window's edge and the lesion's bounding box.
    """

    pixels: np.ndarray
    weight: np.ndarray
    shape: np.ndarray
    skin: np.ndarray
    margin: int

    @cached_property
    def runs(self) -> Runs:
        """Runs of the lesion, for placement."""
        return runs_of(self.shape)

    @cached_property
    def weighted(self) -> np.ndarray:
        """pixels * weight as uint16, and the canvas's share beside it."""
        return self.pixels.astype(np.uint16) * self.weight[..., None]

    @cached_property
    def lab(self) -> np.ndarray:
        """The window in CIELAB."""
        return rgb_to_lab(self.pixels)

    @cached_property
    def skin_lab(self) -> np.ndarray:
        """Mean CIELAB of the skin around the lesion; of the whole rim where no skin is in the window."""
        around = self.skin if self.skin.any() else ~self.shape
        return self.lab[around].mean(0)


def margin_for(settings: LesionMappedSettings) -> int:
    """How far the paste weight reaches beyond the lesion, in px: the dilations and four sigma of blur."""
    return settings.dilate + int(4 * settings.blur + 0.5)


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


def cut_out(
    photo: np.ndarray, mask: np.ndarray, settings: LesionMappedSettings, scale: float = 1.0, rotation: float = 0.0
) -> Lesion:
    """Cut the lesion out of its photo, scaled and rotated about its centre.

    Args:
        photo: (H, W, 3) uint8.
        mask: (H, W) uint8, five classes.
        scale: factor of size.
        rotation: degrees, counter-clockwise.

    Raises:
        NoLesion: there is none, it covers the image, or nothing of it is left at this scale.
    """
    lesion = lesion_of(mask)
    skin = mask == SKIN
    if scale != 1 or rotation != 0:
        photo, lesion, skin = _turned(photo, lesion, skin, scale, rotation, margin_for(settings))
        if not lesion.any():
            raise NoLesion(f"nothing of the lesion is left at scale {scale:.3f}")
    margin = margin_for(settings)
    rows, columns = np.flatnonzero(lesion.any(1)), np.flatnonzero(lesion.any(0))
    box = np.s_[rows[0] : rows[-1] + 1 + 2 * margin, columns[0] : columns[-1] + 1 + 2 * margin]
    around = ((margin, margin), (margin, margin))
    shape = np.pad(lesion, around)[box]
    return Lesion(
        pixels=np.pad(photo, (*around, (0, 0)), mode="edge")[box],
        weight=paste_weight(shape, settings.dilate, settings.blur),
        shape=shape,
        skin=np.pad(skin, around)[box],
        margin=margin,
    )


def paste_weight(shape: np.ndarray, dilate: int, blur: float) -> np.ndarray:
    """Paste weight (h, w) uint8 of a lesion: 3x3 dilations, then a Gaussian (truncated at four sigma)."""
    grown = ndimage.binary_dilation(shape, BOX, iterations=dilate) if dilate else shape
    return np.rint(ndimage.gaussian_filter(grown * 255.0, blur, mode="constant", truncate=4.0)).astype(np.uint8)


def _turned(photo, lesion, skin, scale, rotation, margin):
    """Photo, lesion and skin resampled about the lesion's centre into a frame that holds all of the lesion and its margin."""
    points = np.argwhere(lesion)
    centre = (points.min(0) + points.max(0)) / 2
    reach = scale * np.sqrt((((points - centre) ** 2).sum(1)).max())
    side = 2 * int(np.ceil(reach) + margin + 2) + 1
    turn = np.deg2rad(rotation)
    matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) / scale
    offset = centre - matrix @ np.full(2, side // 2)
    smooth = max(0.0, (1 / scale - 1) / 2)  # keeps a shrunk lesion free of aliasing
    channels = []
    for channel in range(3):
        plane = photo[..., channel].astype(np.float64)
        plane = ndimage.gaussian_filter(plane, smooth) if smooth > 0.1 else plane
        channels.append(ndimage.affine_transform(plane, matrix, offset, (side, side), order=1, mode="nearest"))
    flat = [
        ndimage.affine_transform(part.astype(np.uint8), matrix, offset, (side, side), order=0, mode="constant").astype(
            bool
        )
        for part in (lesion, skin)
    ]
    return np.rint(np.stack(channels, -1)).clip(0, 255).astype(np.uint8), *flat
