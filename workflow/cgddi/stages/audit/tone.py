"""Skin tone as measured (individual typology angle) against the tone asked for."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from tqdm import tqdm

from cgddi.core.archive import Archive, read_member
from cgddi.core.colour import skin_angle, tone_of_angle
from cgddi.core.images import SKIN, TONES
from cgddi.stages.audit.features import draw_by_name, load_image, rows_of
from cgddi.stages.audit.settings import AuditSettings


def audit_tone(index: pd.DataFrame, photos: Sequence[str], settings: AuditSettings) -> dict[str, Any]:
    """Measured tone of real, healthy, mapped and semantic training images, by kind and labelled tone.

    Args:
        index: a split's index.
        photos: photo archives; the five-class mask of an image's canvas (or of the photo itself) says where its skin is.
        settings: cuts and how many images per kind and tone are measured.

    Returns:
        by_kind: kind -> labelled tone -> {images, agree, measured: tone -> count, angle: quartiles}, and overall agreement.
    """
    masks = {}
    for path in photos:
        archive = Archive(path)
        for row in archive.rows:
            if "mask.png" in row["members"]:
                masks[row["image_id"]] = (archive.path, *row["members"]["mask.png"])
    train = draw_by_name(index[index["role"] == "train"], settings.images_per_tone, ["kind", "tone"])
    measured = []
    for row in tqdm(rows_of(train), desc="measure tone", unit="image"):
        picture = load_image(row)
        place = masks.get(row.canvas if isinstance(row.canvas, str) else row.image_id)
        angle = skin_angle(np.asarray(picture), _skin(place, picture.size) if place else None)
        measured.append((row.kind, row.tone, angle, tone_of_angle(angle, settings.ita_cuts), place is not None))
    frame = pd.DataFrame(measured, columns=["kind", "tone", "angle", "measured", "masked"])
    by_kind: dict[str, Any] = {}
    for (kind, tone), rows in frame.groupby(["kind", "tone"], sort=True):
        by_kind.setdefault(kind, {})[tone] = {
            "images": len(rows),
            "with_skin_mask": int(rows["masked"].sum()),
            "agree": int((rows["measured"] == tone).sum()),
            "agreement": round(float((rows["measured"] == tone).mean()), 4),
            "measured": {name: int((rows["measured"] == name).sum()) for name in TONES},
            "angle_quartiles": [round(float(q), 2) for q in np.percentile(rows["angle"], [25, 50, 75])],
        }
    agreement = frame.assign(agree=frame["measured"] == frame["tone"]).groupby("kind")["agree"].mean()
    return {
        "images": len(frame),
        "by_kind": by_kind,
        "agreement": {kind: round(float(value), 4) for kind, value in agreement.items()},
        "cuts": list(settings.ita_cuts),
        "measure": "median ITA (degrees) over skin pixels of the canvas mask",
    }


def _skin(place, size: tuple[int, int]) -> np.ndarray:
    path, start, length = place
    with Image.open(io.BytesIO(read_member(path, start, length))) as mask:
        return np.asarray(mask.resize(size, Image.Resampling.NEAREST)) == SKIN
