"""Whether a photo and its mask can be used, as the masks stage itself will read them, and whether they belong together."""

from typing import Any

import numpy as np
from PIL import Image

from cgddi.core.errors import Problem, UserError
from cgddi.core.images import (
    CLASSES,
    LESION,
    SKIN,
    exif_turn,
    mask_to_size,
    photo_fault,
    photo_to_size,
    read_photo,
    same_shape,
)
from cgddi.core.masks import read_mask
from cgddi.plan.checked import PLAIN, Reading
from cgddi.plan.sheets import Photo
from cgddi.stages.masks.quality import explained_by, thumbnails
from cgddi.stages.masks.settings import MasksSettings

TURNED = 0.12
"""Share of a photo's colour variance that a mask explains better another way round before that is said. Of 54 smartphone photos
with the lesion anywhere this says it of 1 whose mask lies right, and of 40 whose mask is mirrored."""
FOREIGN = 0.1
"""The same, of a plain disc in the middle over the mask: 0.04 at most over 26 masks of their own, over this for half of others'."""
ENLARGED = 2.0
"""Times a photo is enlarged to working size from which on that is said."""

WAYS = {
    "mirrored left to right": np.fliplr,
    "mirrored top to bottom": np.flipud,
    "turned by 180 degrees": lambda mask: mask[::-1, ::-1],
    "turned by 90 degrees counterclockwise": np.rot90,
    "turned by 90 degrees clockwise": lambda mask: np.rot90(mask, 3),
    "with rows and columns exchanged": np.transpose,
    "with rows and columns exchanged and turned by 180 degrees": lambda mask: mask[::-1, ::-1].T,
}
"""How a mask may lie in place of its photo's own way; the first three keep its shape."""


def id_map(mapping: Any) -> dict[str, int] | None:
    """Value in a mask file -> class id, as the masks stage takes it (config key `masks.id_map`).

    Args:
        mapping: {number or #rrggbb colour: class name or class id}; None: the files hold class ids.

    Raises:
        UserError: the mapping is none.
    """
    if mapping is None:
        return None
    try:
        found = {str(value): CLASSES.get(name, name) for value, name in mapping.items()}
        return MasksSettings(id_map=found).id_map
    except (AttributeError, TypeError, ValueError) as error:
        example = '{"0": "skin", "255": "lesion"}'
        raise UserError(f"the mask ids {mapping!r} are no mapping of values to classes such as {example}.") from error


def check_photo(
    photo: Photo, source: str, reading: Reading = PLAIN, image: Image.Image | None = None
) -> tuple[list[Problem], list[Problem]]:
    """Problems and warnings of one photo and its mask.

    Args:
        source: the image sheet's name, for messages.
        image: the photo, where it was read already.

    Returns:
        Problems: unreadable, cut short, no image, black, of one colour, a panorama; a mask that is not two-dimensional, not of
        whole numbers, of unknown classes or of a shape that is neither the photo's nor square. Warnings: a photo much smaller than
        the working size; a mask without lesion or skin, or that would fit its photo better turned or mirrored, or not at all.
    """
    problems: list[Problem] = []
    warnings: list[Problem] = []
    try:
        image = image or read_photo(photo.file)[0]
        if fault := photo_fault(image):
            raise UserError(". ".join(fault))
        if reading.size and min(image.size) * ENLARGED < reading.size:
            text = f"is only {image.width} x {image.height} pixels: enlarged to {reading.size}, its skin has no texture"
            error = UserError(f"{text}. Use a larger original where there is one, or lower masks.size.")
            warnings.append(_problem(error, photo, source, "file", photo.file))
    except Exception as error:  # decoders of damaged files raise all kinds
        problems.append(_problem(error, photo, source, "file", photo.file))
    if photo.mask is None:
        return problems, warnings
    try:
        mask = read_mask(photo.mask, reading.ids)
        if image is not None:
            check_shape(mask, image, photo.file)
        for error in mask_doubts(mask, image, photo.file, reading.crop):
            warnings.append(_problem(error, photo, source, "mask", photo.mask))
    except Exception as error:  # as above
        problems.append(_problem(error, photo, source, "mask", photo.mask))
    return problems, warnings


def check_shape(mask: np.ndarray, image: Image.Image, file: str) -> None:
    """Refuse a mask that is neither square nor of the photo's shape.

    Raises:
        UserError: with what it may be: drawn on a photo that EXIF turns, or saved with its sides exchanged.
    """
    height, width = mask.shape
    if width == height or same_shape(image.size, (width, height)):
        return
    what = f"is {width} x {height} pixels, the photo is {image.width} x {image.height}"
    if not same_shape(image.size, (height, width)):
        raise UserError(f"{what}. A mask has the photo's proportions, or is square (cropped or resized).")
    if turn := exif_turn(file):
        raise UserError(
            f"{what}: it was drawn on the pixels as they are stored, which the photo's EXIF entry turns upright. "
            f"Turn the mask {turn} and save it again."
        )
    raise UserError(f"{what}: its sides are exchanged. Turn it by 90 degrees, or save the transposed array.")


def mask_doubts(mask: np.ndarray, image: Image.Image | None, file: str, crop: str) -> list[UserError]:
    """What is doubtful about a mask that can be read: no lesion, no skin, another way round, another photo's."""
    if not (mask == LESION).any():
        return [UserError("has no lesion pixel. Check it: the photo gives a canvas, but no lesion to transplant.")]
    if not (mask == SKIN).any():
        return [
            UserError("has no skin pixel. Check it, and masks.id_map: without skin around, no healthy skin is made.")
        ]
    if image is None:
        return []
    small = mask_to_size(mask, image.size, 128, crop)
    photo, small = thumbnails(photo_to_size(image, 128, crop), small)
    square = mask.shape[0] == mask.shape[1]
    ways = dict(WAYS if square else [*WAYS.items()][:3])
    fits = explained_by(
        [photo], [small, *(np.ascontiguousarray(turn(small)) for turn in ways.values()), *_discs(len(small))]
    )[0]
    own, others, disc = fits[0], fits[1 : 1 + len(ways)], fits[1 + len(ways) :].max()
    if others.max() - own > TURNED:
        way = [*ways][int(others.argmax())]
        turn = f"; EXIF turns the photo {exif_turn(file)}" if exif_turn(file) else ""
        return [
            UserError(
                f"would fit its photo better {way}{turn}. Look at both; save the mask upright as the photo is shown."
            )
        ]
    if disc - own > FOREIGN:
        return [
            UserError("fits its photo worse than a plain disc would. Look at both: it may be another photo's mask.")
        ]
    return []


def _discs(side: int) -> list[np.ndarray]:
    """Masks of a lesion in the middle, of four sizes."""
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    return [
        np.where(np.hypot(x, y) < radius * side, LESION, SKIN).astype(np.uint8) for radius in (0.08, 0.15, 0.25, 0.35)
    ]


def _problem(error: Exception, photo: Photo, source: str, column: str, path: str) -> Problem:
    text = str(error).removeprefix(f"{path}: ") if isinstance(error, UserError) else f"cannot be read ({error})"
    message, _, remedy = text.partition(". ")
    remedy = remedy or "Replace the file or remove its row."
    return Problem(source, message.removesuffix("."), remedy, row=photo.row, column=column, value=path)
