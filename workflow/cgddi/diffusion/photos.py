"""Photos and their masks out of archives, at the size the model works at; all that fail are named before training."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cgddi.core.archive import Archive, sha256
from cgddi.core.errors import InvalidInput, Problem, UserError
from cgddi.core.images import TONES


@dataclass(frozen=True)
class Photo:
    """One image of an archive.

    Args:
        id: image id (unique among the photos of a job).
        tone: light, medium or dark.
        sha256: of its PNG bytes: what caches key on.
        pixels: (H, W, 3) uint8.
        mask: (H, W) uint8 class ids, or None.
        row: its manifest row.
    """

    id: str
    tone: str
    sha256: str
    pixels: np.ndarray
    mask: np.ndarray | None
    row: Mapping[str, Any]

    @property
    def facts(self) -> list[Any]:
        """All of a photo that training can depend on, for keys: pixels, tone, marks, mask."""
        marks = [self.row.get("has_ruler"), self.row.get("has_marker")]
        return [self.sha256, self.tone, *marks, None if self.mask is None else sha256(self.mask.tobytes())]


def read_photos(archives: Iterable[str | Path], wanted: Sequence[str] | None = None) -> list[Photo]:
    """Read photos by image id, in the order of `wanted` (else sorted by archive, then key).

    Raises:
        InvalidInput: every photo that is missing, damaged, or of an unknown tone, in one list.
    """
    found: dict[str, Photo] = {}
    problems: list[Problem] = []
    failed: set[str] = set()
    chosen = None if wanted is None else set(wanted)
    for path in archives:
        archive = Archive(path)
        for row in archive.rows:
            name = row.get("image_id") or row["key"]
            if chosen is not None and name not in chosen:
                continue
            try:
                found[name] = _photo(archive, row, name)
            except (UserError, OSError, SyntaxError, ValueError) as error:
                failed.add(name)
                problems.append(
                    Problem(str(path), f"image {name} cannot be read ({error})", "Delete the archive and run again.")
                )
    for name in wanted or []:
        if name not in found and name not in failed:
            problems.append(
                Problem("--photos", f"image {name} is in no archive", "Give the masks archive that holds it.")
            )
    if problems:
        raise InvalidInput(problems)
    return [found[name] for name in (wanted if wanted is not None else found)]


def _photo(archive: Archive, row: Mapping[str, Any], name: str) -> Photo:
    with Image.open(io.BytesIO(archive.read(row))) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    mask = None
    if "mask.png" in row["members"]:
        with Image.open(io.BytesIO(archive.read(row, "mask.png"))) as picture:
            mask = np.asarray(picture)
        if mask.shape != pixels.shape[:2]:
            raise ValueError(f"mask is {mask.shape}, image {pixels.shape[:2]}")
    if row.get("tone") not in TONES:
        raise ValueError(f"tone {row.get('tone')!r} is none of {', '.join(TONES)}")
    return Photo(name, row["tone"], row["sha256"], pixels, mask, row)


def fit_square(pixels: np.ndarray, size: int, mask: bool = False) -> np.ndarray:
    """The centre square of an image, resampled to size x size (Lanczos; masks: nearest).

    Args:
        pixels: (H, W, 3) or, for a mask, (H, W); uint8.
        size: side in px.
    """
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pixels[top : top + side, left : left + side]
    if side == size:
        return np.ascontiguousarray(square)
    method = Image.Resampling.NEAREST if mask else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(np.ascontiguousarray(square)).resize((size, size), method))
