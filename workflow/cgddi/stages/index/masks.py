"""Which real images taught the segmenter that made a photo's mask: lineage that enters by an automatic mask."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from cgddi.core.archive import Archive
from cgddi.core.errors import UserError


def segmenter_images(
    photos: Iterable[str | Path | Archive], wanted: Callable[[str], bool] = lambda image: True
) -> dict[str, list[str]]:
    """Photos whose mask a trained segmenter made, and the images it learnt from.

    Args:
        photos: archives of photos (stage masks).
        wanted: which images the segmenter learnt from are asked for; photos whose segmenter saw none of these are left out.

    Returns:
        image id -> ids, sorted; photos of one archive share one list.

    Raises:
        UserError: an archive with such masks does not say what its segmenter learnt from.
    """
    found: dict[str, list[str]] = {}
    for path in photos:
        archive = path if isinstance(path, Archive) else Archive(path)
        made = [row["image_id"] for row in archive.rows if row.get("has_mask") and row.get("mask_source") == "fedd"]
        if not made:
            continue
        if not archive.record.get("segmenter_images"):
            raise UserError(
                f"the record of {archive.path} does not name the images its segmenter learnt from (`segmenter_images`), so "
                "leakage cannot be ruled out. Make its masks again."
            )
        seen = sorted(image for image in archive.record["segmenter_images"] if wanted(image))
        if seen:
            found.update(dict.fromkeys(made, seen))
    return found
