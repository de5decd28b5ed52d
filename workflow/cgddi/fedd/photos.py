"""Photos and their human masks at the study's size, held in memory: the study has at most a few hundred of them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from cgddi.core.errors import InvalidInput, Problem, UserError
from cgddi.core.images import LESION, mask_to_size, photo_to_size, read_mask, read_photo

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Photos:
    """Study photos of one role.

    Args:
        rows: image_id, skin_tone, malignant and files of each.
        pixels: uint8 (N, 3, size, size), RGB.
        truth: uint8 (N, size, size), class ids 0 to 4; None when not asked for.
    """

    rows: tuple[Row, ...]
    pixels: np.ndarray
    truth: np.ndarray | None

    def __len__(self) -> int:
        return len(self.rows)


def read_photos(
    rows: Sequence[Row], size: int, crop: str, id_map: Mapping[str, int] | None = None, masks: bool = True
) -> Photos:
    """Read photos and, when `masks`, their human masks.

    Args:
        rows: image_id, file, mask, skin_tone, malignant.
        size: side of the result in pixels.
        crop: "resize" or "square", as the cohort's masks stage has it.
        id_map: value in a mask file -> class id, as in that stage's settings.
        masks: whether masks are read too.

    Raises:
        InvalidInput: photos or masks that cannot be read or do not fit, all in one report.
    """
    problems: list[Problem] = []
    pixels = np.zeros((len(rows), 3, size, size), np.uint8)
    truth = np.zeros((len(rows), size, size), np.uint8) if masks else None
    for place, row in enumerate(tqdm(rows, desc="read photos", unit="photo")):
        name = f"image {row['image_id']}"
        photo = _attempt(problems, name, lambda row=row: read_photo(row["file"])[0])
        if photo is None:
            continue
        pixels[place] = photo_to_size(photo, size, crop).transpose(2, 0, 1)
        if truth is not None:
            mask = _attempt(problems, name, lambda row=row, photo=photo: _truth(row, photo, size, crop, id_map))
            if mask is not None:
                truth[place] = mask
    if problems:
        raise InvalidInput(problems)
    return Photos(tuple(rows), pixels, truth)


def _truth(row: Row, photo: Image.Image, size: int, crop: str, id_map: Mapping[str, int] | None) -> np.ndarray:
    if not row.get("mask"):
        raise UserError(
            "has no human mask. Give it one in the image sheet, or lower fedd.subsets so that it is not drawn"
        )
    mask = mask_to_size(read_mask(row["mask"], id_map), photo.size, size, crop)
    if mask is None:
        raise UserError(f"{row['mask']}: the mask does not have the photo's shape. Pair each mask with its own photo.")
    return mask


def _attempt(problems: list[Problem], name: str, action: Callable[[], Any]) -> Any:
    """The action's result, or None with its error noted."""
    try:
        return action()
    except UserError as error:
        message, _, remedy = str(error).rpartition(". ")
        problems.append(Problem(name, message or str(error), remedy or "Mend the image sheet."))
        return None


def without_covered(photos: Photos) -> tuple[Photos, list[dict[str, str]]]:
    """Training photos less those that are lesion all over (nothing tells it from skin there), and a line on each of these."""
    covered = (photos.truth == LESION).all((1, 2))
    left_out = [
        {"image_id": row["image_id"], "reason": "the mask is lesion all over"}
        for row, all_lesion in zip(photos.rows, covered, strict=True)
        if all_lesion
    ]
    for line in left_out:
        print(f"image {line['image_id']} takes no part in training: {line['reason']}", file=sys.stderr)
    rows = tuple(row for row, all_lesion in zip(photos.rows, covered, strict=True) if not all_lesion)
    if not rows:
        raise UserError("every training mask is lesion all over. Look at masks.id_map and the masks.")
    return Photos(rows, photos.pixels[~covered], photos.truth[~covered]), left_out
