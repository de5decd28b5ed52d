"""The result tables of one run of the study, in the formats that `cgddi fedd tables` reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cgddi.core.archive import csv_text
from cgddi.core.images import CLASSES, TONES
from cgddi.core.seeds import seed_for

IOU_COLUMNS = ("image_id", "tone", "malignant", "class", "intersection", "union", "predicted", "truth")
PREDICTION_COLUMNS = ("image_id", "tone", "malignant", "role", "block", "seed", "probability")
PICTURES_PER_TONE = 2


def pixel_counts(predicted: np.ndarray, truth: np.ndarray) -> list[dict[str, Any]]:
    """Per class: pixels in both masks, in either, in the predicted and in the true one; class ids of equal shape."""
    found = []
    for name, class_id in CLASSES.items():
        ours, real = predicted == class_id, truth == class_id
        counts = {"intersection": ours & real, "union": ours | real, "predicted": ours, "truth": real}
        found.append({"class": name, **{key: int(mask.sum()) for key, mask in counts.items()}})
    return found


def iou_csv(rows: Sequence[Mapping[str, Any]], predicted: np.ndarray, truth: np.ndarray) -> str:
    """One line per image and class (see `IOU_COLUMNS`), ordered by image.

    Args:
        rows: image_id, skin_tone and malignant of each image.
        predicted, truth: class ids (N, H, W).
    """
    lines = []
    for place, row in enumerate(rows):
        for counts in pixel_counts(predicted[place], truth[place]):
            lines.append({**_head(row), **counts})
    return csv_text(IOU_COLUMNS, sorted(lines, key=lambda line: line["image_id"]))


def predictions_csv(lines: Iterable[Mapping[str, Any]]) -> str:
    """One line per image, block and seed (see `PREDICTION_COLUMNS`), ordered by role, block, seed and image.

    Args:
        lines: an image's row (image_id, skin_tone, malignant) with role, block (None for a baseline), seed and probability.
    """
    found = []
    for line in lines:
        block = "" if line["block"] is None else line["block"]
        rest = {"role": line["role"], "seed": line["seed"], "probability": f"{line['probability']:.6f}"}
        found.append({**_head(line), **rest, "block": block})
    found.sort(key=lambda line: (line["role"], str(line["block"]).zfill(3), line["seed"], line["image_id"]))
    return csv_text(PREDICTION_COLUMNS, found)


def _head(row: Mapping[str, Any]) -> dict[str, Any]:
    malignant = row["malignant"]
    known = "" if malignant is None else str(bool(malignant)).lower()
    return {"image_id": row["image_id"], "tone": row["skin_tone"], "malignant": known}


def shown_images(rows: Sequence[Mapping[str, Any]], seed: int) -> list[int]:
    """Places of the test images whose masks are kept as pictures: the first two of each tone by a hash of their names."""
    found = []
    for tone in TONES:
        mine = [place for place, row in enumerate(rows) if row["skin_tone"] == tone]
        mine.sort(key=lambda place: seed_for(seed, "fedd pictures", rows[place]["image_id"]))
        found += mine[:PICTURES_PER_TONE]
    return found


def pictures(
    rows: Sequence[Mapping[str, Any]],
    photos: np.ndarray,
    truth: np.ndarray,
    predicted: np.ndarray,
    uncertainty: np.ndarray | None,
    seed: int,
) -> bytes:
    """A few test images with their masks, as the bytes of a safetensors file.

    Tensors by `<image_id>/`: photo uint8 (H, W, 3), truth and predicted uint8 (H, W) class ids, uncertainty uint8 (H, W) where
    there is one (255 = the ensemble is split as far as it can be).

    Args:
        rows: image_id, skin_tone and malignant. photos: uint8 (N, 3, H, W). truth, predicted: (N, H, W).
        uncertainty: float (N, H, W) in 0..1, or None. seed: the project's seed.
    """
    import torch

    from cgddi.core.archive import canonical
    from cgddi.diffusion.weights import to_bytes

    tensors, images = {}, []
    for place in shown_images(rows, seed):
        name = rows[place]["image_id"]
        parts = {"photo": photos[place].transpose(1, 2, 0), "truth": truth[place], "predicted": predicted[place]}
        if uncertainty is not None:
            parts["uncertainty"] = np.round(np.clip(uncertainty[place], 0, 1) * 255)
        for part, values in parts.items():
            tensors[f"{name}/{part}"] = torch.from_numpy(np.ascontiguousarray(values, dtype=np.uint8))
        images.append({"image_id": name, "tone": rows[place]["skin_tone"], "malignant": rows[place]["malignant"]})
    return to_bytes(tensors, {"cgddi": canonical({"images": images})})
