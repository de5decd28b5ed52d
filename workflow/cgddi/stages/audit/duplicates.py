"""Near-duplicates of held-out images among training images: perceptual hash first, then similarity of features."""

from __future__ import annotations

from typing import Any

import imagehash
import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from cgddi.stages.audit.features import extract, load_image, rows_of, unit
from cgddi.stages.audit.settings import AuditSettings


def perceptual_hash(picture: Image.Image) -> np.ndarray:
    """The 64-bit DCT hash of ImageHash (`phash`), as 64 booleans."""
    return imagehash.phash(picture).hash.ravel()


def views(picture: Image.Image) -> list[Image.Image]:
    """The eight turns and mirrorings of a picture; the first is the picture itself."""
    turned = [picture, *(picture.transpose(how) for how in (Image.Transpose.ROTATE_90, Image.Transpose.ROTATE_180))]
    turned.append(picture.transpose(Image.Transpose.ROTATE_270))
    return [*turned, *(view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for view in turned)]


def near_duplicates(index: pd.DataFrame, settings: AuditSettings, seed: int) -> list[dict[str, Any]]:
    """Training rows that nearly equal a validation or test image, up to turns by 90 degrees and mirroring.

    Returns:
        One entry per pair: id, kind, archive, image, role, bits (Hamming distance), similarity (cosine of features).
    """
    held = rows_of(index[index["role"] != "train"])
    train = rows_of(index[(index["role"] == "train") & index["kind"].isin(settings.near_duplicate_kinds)])
    if not held or not train:
        return []
    hashes = []
    for row in tqdm(held, desc="hash held-out images", unit="image"):
        hashes.append([perceptual_hash(view) for view in views(load_image(row))])
    signs = 2 * np.asarray(hashes, dtype=np.float32) - 1  # (held, 8, 64)
    flat = signs.reshape(-1, 64)
    pairs = []
    for row in tqdm(train, desc="hash training images", unit="image"):
        sign = 2 * perceptual_hash(load_image(row)).astype(np.float32) - 1
        bits = ((64 - flat @ sign) / 2).reshape(len(held), -1)
        for other in np.flatnonzero(bits.min(axis=1) <= settings.hash_distance):
            pairs.append((row, held[other], int(bits[other].argmin()), int(bits[other].min())))
    return _confirm(pairs, settings, seed)


def _confirm(pairs, settings: AuditSettings, seed: int) -> list[dict[str, Any]]:
    if not pairs:
        return []
    left = unit(extract((load_image(row) for row, *_ in pairs), settings.features, seed))
    right = unit(extract((views(load_image(other))[view] for _, other, view, _ in pairs), settings.features, seed))
    found = []
    for (row, other, _, bits), similarity in zip(pairs, (left * right).sum(axis=1), strict=True):
        if similarity >= settings.duplicate_cut:
            place = {
                "id": row.id,
                "kind": row.kind,
                "archive": row.archive,
                "image": other.image_id,
                "role": other.role,
            }
            found.append({**place, "bits": bits, "similarity": round(float(similarity), 4)})
    return found
