"""Memorisation: is a semantic image a copy of a real training image other than its canvas?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cgddi.stages.audit.duplicates import perceptual_hash
from cgddi.stages.audit.features import describe, draw_by_name, extract, load_image, rows_of, unit
from cgddi.stages.audit.settings import AuditSettings

LISTED = 20


def audit_memorisation(index: pd.DataFrame, settings: AuditSettings, seed: int) -> dict[str, Any]:
    """Nearest real training image of each semantic image, by cosine of features and by perceptual hash.

    An image resembles its own canvas by construction (img2img), so the canvas's photo is left out of its candidates.

    Returns:
        images, copies (similarity at or above `memorised_similarity`), similarity and bits (quantiles over images), between_real
        (the same quantiles from each real image to its nearest other: the yardstick), closer_than_real (images nearer to a real
        one than any two real ones are to each other, which says something even where all photos are alike), nearest (the most
        similar pairs).
    """
    train = index[index["role"] == "train"]
    real = rows_of(train[train["kind"] == "real"])
    semantic = rows_of(draw_by_name(train[train["kind"] == "semantic"], settings.images_per_tone, ["tone"]))
    if not real or not semantic:
        return {"images": len(semantic), "copies": 0, "nearest": [], "features": describe(settings.features)}
    real_features, real_bits = _described(real, settings, seed, "real")
    features, bits = _described(semantic, settings, seed, "semantic")
    centre = real_features.mean(axis=0, keepdims=True)
    real_unit, features = unit(real_features, centre), unit(features, centre)
    similarity = features @ real_unit.T
    distance = (64 - bits @ real_bits.T) / 2
    own = np.asarray([[row.canvas == photo.image_id for photo in real] for row in semantic])
    similarity[own], distance[own] = -1, 64
    between = real_unit @ real_unit.T
    np.fill_diagonal(between, -1)
    nearest, closest = similarity.argmax(axis=1), similarity.max(axis=1)
    order = np.lexsort((np.arange(len(closest)), -closest))[:LISTED]
    return {
        "images": len(semantic),
        "copies": int((closest >= settings.memorised_similarity).sum()),
        "threshold": settings.memorised_similarity,
        "similarity": _quantiles(closest),
        "bits": _quantiles(distance.min(axis=1)),
        "between_real": _quantiles(between.max(axis=1)),
        "closer_than_real": int((closest > between.max()).sum()),
        "nearest": [
            {
                "id": semantic[i].id,
                "image": real[nearest[i]].image_id,
                "similarity": round(float(closest[i]), 4),
                "bits": int(distance[i, nearest[i]]),
                "same_concept": semantic[i].concept == real[nearest[i]].concept,
            }
            for i in order
        ],
        "features": describe(settings.features),
    }


def _described(rows, settings: AuditSettings, seed: int, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Features (N, D) and hashes as +-1 (N, 64) of images."""
    signs = []

    def pictures():
        for row in tqdm(rows, desc=f"describe {name} images", unit="image"):
            picture = load_image(row)
            signs.append(2 * perceptual_hash(picture).astype(np.float32) - 1)
            yield picture

    features = extract(pictures(), settings.features, seed)
    return features, np.stack(signs)


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {str(q): round(float(np.quantile(values, q)), 4) for q in (0, 0.25, 0.5, 0.75, 0.95, 0.99, 1)}
