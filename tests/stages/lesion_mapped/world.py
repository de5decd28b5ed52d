"""Synthetic photos with masks of real proportions, as arrays and as archives, for the tests and benchmarks of stages 0 to 2."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from cgddi.core.archive import Archive, ArchiveWriter
from cgddi.core.colour import lab_to_rgb, to_uint8
from cgddi.core.images import BACKGROUND, LESION, MARKER, RULER, SKIN, TONES, encode_png
from PIL import Image
from scipy.ndimage import gaussian_filter

SKIN_LAB = {"light": (72, 10, 16), "medium": (55, 13, 20), "dark": (36, 12, 16)}

FAULTLESS: dict[str, float | None] = dict.fromkeys(
    ("lesion_contrast", "lesion_left", "mottle", "stain", "ita_change", "artefacts", "bitten", "seam"), 0.0
)
FAULTLESS |= dict.fromkeys(("texture_1", "texture_2", "texture_4", "texture_8", "texture_16", "grain"), 1.0)
FAULTLESS |= dict.fromkeys(("border_step", "border_step_skin"), 1.0)
"""Triage scores of a healthy image without fault."""


def candidate(scores: dict[str, float | None] = FAULTLESS, method: str = "heal") -> dict[str, Any]:
    """The one picture of a healthy archive's row, with its scores."""
    return {method: {"member": "png", "triage": scores}}


def photo(
    seed: int, size: int = 128, tone: str = "light", lesion: float = 0.02, marker: bool = True, ruler: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """A photo (size, size, 3) uint8 and its five-class mask (size, size) int32; `lesion` is its share of the image."""
    rng = np.random.default_rng(seed)
    lab = np.empty((size, size, 3))
    lab[...] = SKIN_LAB[tone]
    lab[..., 0] += 45 * gaussian_filter(rng.standard_normal((size, size)), 12) + 0.8 * rng.standard_normal((size, size))
    lab[..., 0] += np.linspace(-4, 4, size)
    mask = np.full((size, size), SKIN, np.int32)
    y, x = np.mgrid[:size, :size]
    radius = np.sqrt(lesion * size * size / np.pi)
    angle, distance = np.arctan2(y - size * 0.45, x - size * 0.5), np.hypot(y - size * 0.45, x - size * 0.5)
    outline = radius * (1 + 0.2 * np.cos(3 * angle + seed) + 0.1 * np.cos(5 * angle))
    inside = distance < outline
    lab += (1 / (1 + np.exp(((distance - outline) / 1.2).clip(-50, 50))))[..., None] * (-22, 8, 4)
    mask[inside] = LESION
    if marker:
        ink = (np.abs(distance - radius * 1.2 - size / 18) < 1.5) & (np.abs(angle) < 0.7) & ~inside
        lab[ink] = (30, 10, -35)
        mask[ink] = MARKER
    if ruler:
        strip, cloth = np.s_[-size // 8 :], np.s_[:, : size // 20]
        lab[strip] = (88, 0, 3)
        mask[strip] = RULER
        lab[cloth] = (40, -15, -10)
        mask[cloth] = BACKGROUND
    return to_uint8(lab_to_rgb(lab)), mask


def write_photos(folder: Path, count: int, size: int = 128, **options: Any) -> list[dict[str, Any]]:
    """Photos and masks as files; returns the rows of a masks spec. Tones take turns."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(count):
        tone = TONES[number % 3]
        picture, mask = photo(number, size, tone, **options)
        files = folder / f"{number:06d}.png", folder / f"{number:06d}.npy"
        Image.fromarray(picture).save(files[0])
        np.save(files[1], mask)
        rows.append(row_of(f"{number:06d}", files[0], files[1], tone))
    return rows


def row_of(image_id: str, file: Path, mask: Path | None, tone: str = "light") -> dict[str, Any]:
    """One row of a masks spec, and its tone."""
    return {"image_id": image_id, "file": str(file), "mask": None if mask is None else str(mask), "tone": tone}


def labels_of(archive: Archive) -> list[dict[str, Any]]:
    """Labels of the photos of a masks archive, for the specs of later stages; tones as the rows of `row_of` had them."""
    told = {row["image_id"]: row.get("tone", "light") for row in archive.record["spec"]["rows"]}
    known = {"concept": "nevus", "malignant": False, "group": None}
    return [{"image_id": image, "tone": tone, **known} for image, tone in told.items()]


def spec_of(stage: str, settings: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """A job's spec as the workflow writes it."""
    return {"stage": stage, "settings": settings or {}, "seed": 7, "source": "test", "versions": {}, **keys}


def run(*words: str | Path, spec: dict[str, Any]) -> int:
    """A `cgddi` command in this process."""
    from cgddi.cli import main

    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(spec, file)
        file.flush()
        return main([str(words[0]), "--spec", file.name, *map(str, words[1:])])


def write_samples(
    path: Path, samples: Sequence[tuple[str, np.ndarray, np.ndarray | None, dict[str, Any]]], **facts: Any
) -> Path:
    """An archive of (key, photo, mask or None, further row keys): a masks archive, or canvases."""
    with ArchiveWriter(path, spec_of("test", **facts)) as archive:
        for key, picture, mask, row in samples:
            members = {"png": encode_png(picture)}
            if mask is not None:
                members["mask.png"] = encode_png(mask.astype(np.uint8))
            known = {"id": f"real/c/{key}", "kind": "real", "cohort": "c", "concept": "nevus", "tone": "light"}
            archive.add(key, members, {**known, "malignant": False, "has_mask": mask is not None, "flags": [], **row})
    return path
