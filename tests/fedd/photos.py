"""A small study in files: photos of three skin tones with a lesion, and their masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from cgddi.core.images import LESION, SKIN, TONES
from PIL import Image

SKINS = {"light": (232, 190, 172), "medium": (190, 140, 105), "dark": (96, 64, 48)}


def write_photo(folder: Path, name: str, tone: str, malignant: bool, side: int = 72) -> dict[str, Any]:
    """One photo with a round lesion, large and red when malignant, and its mask; returns the row a spec holds."""
    rng = np.random.default_rng(sum(name.encode()))
    photo = np.clip(np.array(SKINS[tone]) + rng.normal(0, 6, (side, side, 3)), 0, 255)
    y, x = np.mgrid[:side, :side]
    centre = rng.uniform(0.4, 0.6, 2) * side
    inside = (y - centre[0]) ** 2 + (x - centre[1]) ** 2 < (side * (0.3 if malignant else 0.2)) ** 2
    photo[inside] = np.array((150, 20, 30) if malignant else (60, 35, 25)) + rng.normal(0, 6, (inside.sum(), 3))
    Image.fromarray(photo.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.png")
    np.save(folder / f"{name}.npy", np.where(inside, LESION, SKIN).astype(np.int32))
    files = {"file": str(folder / f"{name}.png"), "mask": str(folder / f"{name}.npy")}
    return {"image_id": name, **files, "skin_tone": tone, "malignant": malignant, "concept": "nevus"}


def write_study(folder: Path, per_tone: int = 2) -> dict[str, list[dict[str, Any]]]:
    """Rows of train, validation and test, each with `per_tone` photos of every tone, half malignant."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        role: [
            write_photo(folder, f"{role}-{tone}-{k}", tone, malignant=k % 2 == 0)
            for tone in TONES
            for k in range(per_tone)
        ]
        for role in ("train", "validation", "test")
    }
