"""Copies: held-out photos that come back among the training images, and training photos that a generator learnt by heart.

Both compare pictures by perceptual hash and by the similarity of their features.
"""

from typing import Any

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from cgddi.core.lineage import KINDS
from cgddi.stages.audit.features import describe, draw_by_name, extract, load_image, rows_of, unit
from cgddi.stages.audit.settings import AuditSettings

NEAR_DUPLICATE_KINDS = ("real", "healthy")
"""Kinds of training image that are searched for held-out photos; the others show no photo as it was taken. Images that others
generated are all searched."""
STRANGERS = 0.99
"""Share of the real photos whose nearest other photo is no nearer than a synthetic image may be to a training photo."""
LISTED = 20


def signs_of(picture: Image.Image) -> np.ndarray:
    """The 64-bit DCT hash of ImageHash (`phash`) as float32 of +1 and -1: (64 - a @ b) / 2 is the number of different bits."""
    return 2 * imagehash.phash(picture).hash.ravel().astype(np.float32) - 1


def views(picture: Image.Image) -> list[Image.Image]:
    """The eight turns and mirrorings of a picture; the first is the picture itself."""
    turns = (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180, Image.Transpose.ROTATE_270)
    turned = [picture, *(picture.transpose(how) for how in turns)]
    return [*turned, *(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for view in turned)]


def near_duplicates(index: pd.DataFrame, settings: AuditSettings, seed: int) -> list[dict[str, Any]]:
    """Training rows that nearly equal a validation or test image, up to turns by 90 degrees and mirroring.

    Returns:
        One entry per pair: id, kind, archive, image, role, bits (Hamming distance), similarity (cosine of features).
    """
    held = rows_of(index[index["role"] != "train"])
    searched = index["kind"].isin(NEAR_DUPLICATE_KINDS) | ~index["source"].isin(KINDS)
    train = rows_of(index[(index["role"] == "train") & searched])
    if not held or not train:
        return []
    hashes = []
    for row in tqdm(held, desc="hash held-out images", unit="image"):
        hashes.append([signs_of(view) for view in views(load_image(row))])
    signs = np.asarray(hashes).reshape(-1, 64)  # (held x 8, 64)
    pairs = []
    for row in tqdm(train, desc="hash training images", unit="image"):
        bits = ((64 - signs @ signs_of(load_image(row))) / 2).reshape(len(held), 8)
        near = np.flatnonzero(bits.min(axis=1) <= settings.hash_distance)
        pairs += [(row, held[other], int(bits[other].argmin()), int(bits[other].min())) for other in near]
    return _confirm(pairs, settings, seed) if pairs else []


def _confirm(pairs: list[tuple[Any, Any, int, int]], settings: AuditSettings, seed: int) -> list[dict[str, Any]]:
    """Those pairs (training row, held-out row, view, bits) whose features agree too."""
    left = unit(extract((load_image(row) for row, *_ in pairs), settings.features, seed))
    right = unit(extract((views(load_image(other))[view] for _, other, view, _ in pairs), settings.features, seed))
    found = []
    for (row, other, _, bits), similarity in zip(pairs, (left * right).sum(axis=1), strict=True):
        if similarity >= settings.duplicate_cut:
            pair = {"id": row.id, "kind": row.kind, "archive": row.archive, "image": other.image_id, "role": other.role}
            found.append({**pair, "bits": bits, "similarity": round(float(similarity), 4)})
    return found


def audit_memorisation(index: pd.DataFrame, settings: AuditSettings, seed: int) -> dict[str, Any]:
    """Nearest real training image of each semantic image, by cosine of features and by perceptual hash.

    An image resembles its own canvas by construction (img2img), so the canvas's photo is left out of its candidates.

    Returns:
        images, copies (similarity above the threshold), threshold (what 99 % of the real photos keep to their nearest other, so
        that it follows the features and the cohort), similarity and bits (quantiles over images), between_real (the same
        quantiles from each real image to its nearest other: the yardstick), closer_than_real (images nearer to a real one than any
        two real ones are to each other, which says something even where all photos are alike), nearest (the most similar pairs).
    """
    train = index[index["role"] == "train"]
    real = rows_of(train[train["kind"] == "real"])
    semantic = rows_of(draw_by_name(train[train["kind"] == "semantic"], settings.images_per_tone, ["tone"]))
    if not real or not semantic:
        return {"images": len(semantic), "copies": 0, "nearest": [], "features": describe(settings.features)}
    real_features, real_signs = _described(real, settings, seed, "real")
    features, signs = _described(semantic, settings, seed, "semantic")
    centre = real_features.mean(axis=0, keepdims=True)
    real_unit, features = unit(real_features, centre), unit(features, centre)
    similarity, distance = features @ real_unit.T, (64 - signs @ real_signs.T) / 2
    own = np.asarray([[row.canvas == photo.image_id for photo in real] for row in semantic])
    similarity[own], distance[own] = -1, 64
    between = real_unit @ real_unit.T
    np.fill_diagonal(between, -1)
    nearest, closest = similarity.argmax(axis=1), similarity.max(axis=1)
    threshold = float(np.quantile(between.max(axis=1), STRANGERS, method="higher"))
    order = np.lexsort((np.arange(len(closest)), -closest))[:LISTED]
    return {
        "images": len(semantic),
        "copies": int((closest > threshold).sum()),
        "threshold": round(threshold, 4),
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
            signs.append(signs_of(picture))
            yield picture

    features = extract(pictures(), settings.features, seed)
    return features, np.stack(signs)


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {str(q): round(float(np.quantile(values, q)), 4) for q in (0, 0.25, 0.5, 0.75, 0.95, 0.99, 1)}
