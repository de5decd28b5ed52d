"""Write one batch of photos and masks at working size."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from cgddi.artefacts import ArchiveWriter
from cgddi.errors import InvalidInput, Problem, UserError
from cgddi.images import MARKER, RULER, TONES, encode_png
from cgddi.masks.geometry import (
    class_shares,
    explained_variance,
    mask_flags,
    mask_to_size,
    photo_to_size,
    same_shape,
)
from cgddi.masks.read import read_mask, read_photo
from cgddi.masks.settings import MasksSettings


def write_batch(spec: Mapping[str, Any], settings: MasksSettings, output: str | Path) -> None:
    """Read every photo and mask of the batch and write the archive.

    Args:
        spec: the job's spec: rows (image_id, file, mask, concept, skin_tone, malignant, group) and cohort.
        settings: working size, crop and id map.
        output: the archive to write; samples hold `png` and, when masked, `mask.png`.

    Raises:
        InvalidInput: unreadable photos or masks, all of them in one report.
    """
    rows: Sequence[Mapping[str, Any]] = spec["rows"]
    files = [path for row in rows for path in (row["file"], row.get("mask")) if path and Path(path).is_file()]
    problems: list[Problem] = []
    with ArchiveWriter(output, spec, files) as archive:
        for row in tqdm(rows, desc=f"masks {spec['cohort']}/{spec['batch']}", unit="image"):
            try:
                _add(archive, row, spec["cohort"], settings)
            except UserError as error:
                message, _, remedy = str(error).rpartition(". ") if ". " in str(error) else (str(error), "", "")
                problems.append(Problem(f"image {row['image_id']}", message, remedy or "Mend or remove its row."))
        if problems:
            raise InvalidInput(problems)


def _add(archive: ArchiveWriter, row: Mapping[str, Any], cohort: str, settings: MasksSettings) -> None:
    image_id = row["image_id"]
    if row["skin_tone"] not in TONES:
        raise UserError(f"skin_tone is {row['skin_tone']!r}. Give one of {', '.join(TONES)}.")
    photo, flags = read_photo(row["file"])
    pixels = photo_to_size(photo, settings.size, settings.crop)
    facts: dict[str, Any] = {"width": photo.width, "height": photo.height, "crop": settings.crop, "size": settings.size}
    mask = None
    if row.get("mask"):
        raw = read_mask(row["mask"], settings.id_map)
        facts["mask_width"], facts["mask_height"] = raw.shape[1], raw.shape[0]
        mask = mask_to_size(raw, photo.size, settings.size, settings.crop)
        if mask is None:
            flags.append("mask_mismatch")
            archive.skip(
                image_id,
                f"mask left out: it is {raw.shape[1]}x{raw.shape[0]} px and neither square nor of the photo's shape "
                f"({photo.width}x{photo.height}). Give the mask of this photo, of the same shape or square.",
            )
        else:
            flags += mask_flags(mask) + _fit_flags(image_id, photo, raw, pixels, mask, settings)
            facts["shares"] = class_shares(mask)
    members = {"png": encode_png(pixels, settings.png_compress_level)}
    if mask is not None:
        members["mask.png"] = encode_png(mask, settings.png_compress_level)
    archive.add(
        image_id,
        members,
        {
            "id": f"real/{cohort}/{image_id}",
            "kind": "real",
            "image_id": image_id,
            "cohort": cohort,
            "group": row.get("group"),
            "concept": row["concept"],
            "tone": row["skin_tone"],
            "malignant": row["malignant"],
            "donor": None,
            "canvas": None,
            "generator": None,
            "prompt": None,
            "seed": None,
            "has_mask": mask is not None,
            "mask_source": settings.source if mask is not None else None,
            "has_ruler": mask is not None and bool((mask == RULER).any()),
            "has_marker": mask is not None and bool((mask == MARKER).any()),
            "flags": flags,
            **facts,
        },
    )


def _fit_flags(
    name: str, photo: Image.Image, raw: np.ndarray, pixels: np.ndarray, mask: np.ndarray, settings: MasksSettings
) -> list[str]:
    """Say so when photo and mask were brought together, or when the other crop fits clearly better."""
    flags = []
    height, width = raw.shape
    if (width, height) != photo.size:
        flags.append("mask_resized" if same_shape(photo.size, (width, height)) else "mask_stretched")
    if width == height and not same_shape(photo.size, (1, 1)):
        other = "square" if settings.crop == "resize" else "resize"
        size = min(settings.size, 256)
        ours = explained_variance(pixels, mask)
        theirs = explained_variance(photo_to_size(photo, size, other), mask_to_size(raw, photo.size, size, other))
        if theirs - ours > settings.fit_margin:
            flags.append("crop_doubtful")
            tqdm.write(
                f"{name}: the mask fits better with masks.crop: {other} (explains {theirs:.2f} of the photo's colours, now "
                f"{ours:.2f})",
                file=sys.stderr,
            )
    return flags
