"""A made study: small photos, masks and feature files in which the classes can or cannot be told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from cgddi.core.images import TONES
from cgddi.fedd.features.files import ImageFeatures, write_features
from PIL import Image

SIZE = 32


def truth_of(number: int) -> np.ndarray:
    """A mask with a lesion, skin, background and, on some photos, a ruler and a marker; int32 (32, 32) as sDDI's."""
    rng = np.random.default_rng(number)
    mask = np.full((SIZE, SIZE), 4, np.int32)
    mask[:4] = 0
    top, left = rng.integers(8, 14, 2)
    mask[top : top + 8, left : left + 10] = 1
    mask[24:, 24:] = 2 if number % 3 == 0 else 4
    mask[26:, :8] = 3 if number % 2 else 4
    return mask


def make_study(folder: Path, separable: float, per_tone: dict[str, int], tone_shift: float = 0.0) -> dict:
    """Write photos, masks and a feature file, and give the spec of a segmenter job.

    Args:
        separable: distance of the classes' means in the features, in standard deviations of their noise.
        per_tone: role -> photos per tone, half malignant. tone_shift: how far dark skin's features are moved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    centres = {b: torch.randn(5, c, generator=torch.Generator().manual_seed(b)) for b, c in ((1, 8), (2, 6))}
    features, spec = {}, {role: [] for role in per_tone}
    number = 0
    for role, count in per_tone.items():
        for tone in TONES:
            for k in range(count):
                number += 1
                image = f"{role}-{tone}-{k}"
                mask = truth_of(number)
                np.save(folder / f"{image}.npy", mask)
                pixels = np.random.default_rng(number).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{image}.png")
                generator = torch.Generator().manual_seed(1000 + number)
                maps, pooled = {}, {}
                for block, side in ((1, 16), (2, 32)):
                    ids = torch.from_numpy(mask[:: SIZE // side, :: SIZE // side].astype(np.int64))
                    noise = torch.randn(*ids.shape, centres[block].shape[1], generator=generator)
                    values = centres[block][ids] * separable + noise + (tone_shift if tone == "dark" else 0)
                    maps[block] = values.permute(2, 0, 1).half()
                    malignant = torch.randn(512, generator=generator)
                    pooled[block] = (malignant + separable * (k % 2) * (block == 2)).half()
                features[image] = ImageFeatures(maps=maps, pooled=pooled)
                spec[role].append(
                    {
                        "image_id": image,
                        "file": str(folder / f"{image}.png"),
                        "mask": str(folder / f"{image}.npy"),
                        "skin_tone": tone,
                        "malignant": bool(k % 2),
                        "concept": "c",
                    }
                )
    facts = {"model": "made", "size": SIZE, "timestep": 100, "crop": "resize", "blocks": 3}
    write_features(folder / "features.safetensors", features, {"settings": {}}, **facts)
    return {
        "settings": {"steps": 400, "check_every": 50, "patience": 3, "hidden": [32, 16]},
        "seed": 7,
        "versions": {},
        "variant": "plain",
        "subset": "20",
        "run_seed": 0,
        "size": SIZE,
        "timestep": 100,
        "blocks": [2, 1],
        "crop": "resize",
        "id_map": None,
        **spec,
    }
