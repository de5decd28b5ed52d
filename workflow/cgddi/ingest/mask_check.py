"""Whether a photo and its mask can be used, as the masks stage itself will read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cgddi.core.errors import Problem, UserError
from cgddi.core.images import CLASSES, LESION, read_mask, read_photo, same_shape
from cgddi.plan.sheets import Photo
from cgddi.stages.masks.settings import MasksSettings

LEAST_SIDE = 16
"""Pixels below which a photo shows nothing."""


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


def check_photo(photo: Photo, source: str, ids: Mapping[str, int] | None) -> tuple[list[Problem], list[Problem]]:
    """Problems and warnings of one photo and its mask.

    Args:
        photo: the row.
        source: the image sheet's name, for messages.
        ids: see `id_map`.

    Returns:
        Problems: unreadable, cut short, no image; a mask that is not two-dimensional, not of whole numbers, of unknown
        classes or of a shape that is neither the photo's nor square. Warnings: a mask without a lesion (its photo gives
        a canvas, but no lesion to transplant).
    """
    problems: list[Problem] = []
    warnings: list[Problem] = []
    size = None
    try:
        size = read_photo(photo.file)[0].size
        if min(size) < LEAST_SIDE:
            raise UserError(f"is only {size[0]} x {size[1]} pixels. Replace the file or remove its row.")
    except Exception as error:  # decoders of damaged files raise all kinds
        problems.append(_problem(error, photo, source, "file", photo.file))
    if photo.mask is None:
        return problems, warnings
    try:
        mask = read_mask(photo.mask, ids)
        height, width = mask.shape
        if size is not None and width != height and not same_shape(size, (width, height)):
            raise UserError(
                f"is {width} x {height} pixels, the photo is {size[0]} x {size[1]}. "
                "A mask has the photo's proportions, or is square (cropped or resized)."
            )
        if not (mask == LESION).any():
            error = UserError("has no lesion pixel. Check it: the photo gives a canvas, but no lesion to transplant.")
            warnings.append(_problem(error, photo, source, "mask", photo.mask))
    except Exception as error:  # as above
        problems.append(_problem(error, photo, source, "mask", photo.mask))
    return problems, warnings


def _problem(error: Exception, photo: Photo, source: str, column: str, path: str) -> Problem:
    text = str(error).removeprefix(f"{path}: ") if isinstance(error, UserError) else f"cannot be read ({error})"
    message, _, remedy = text.partition(". ")
    remedy = remedy or "Replace the file or remove its row."
    return Problem(source, message.removesuffix("."), remedy, row=photo.row, column=column, value=path)
