"""A data set of DDI's shape with invented rows: the counts of the published one by tone, label, concept and mask."""

from __future__ import annotations

import csv
import itertools
import random
from collections import defaultdict
from pathlib import Path

import numpy as np
from cgddi.core.images import BACKGROUND, LESION, MARKER, RULER, SKIN, encode_png
from cgddi.ingest.diseases import read_diseases

TONES = {"12": 208, "34": 241, "56": 207}
MALIGNANT = {"12": 49, "34": 74, "56": 48}
MASKED = {"12": 105, "34": 123, "56": 106}
"""334 masks; 97, 114 and 98 of them gave canvases that review kept."""

COMMON = {
    "nevus": 135,
    "seborrheic keratosis": 61,
    "verruca vulgaris": 53,
    "squamous cell carcinoma": 52,
    "basal cell carcinoma": 50,
    "epidermal cyst": 36,
    "cutaneous T-cell lymphoma": 33,
    "melanoma": 30,
    "dermatofibroma": 22,
    "acrochordon": 18,
    "benign keratosis": 16,
    "neurofibroma": 12,
    "angioma": 11,
}
"""Concepts with more than 10 photos."""

MALIGNANT_CONCEPTS = {
    "squamous cell carcinoma",
    "basal cell carcinoma",
    "cutaneous T-cell lymphoma",
    "melanoma",
    "metastatic carcinoma",
    "kaposi sarcoma",
    "leukemia cutis",
    "sebaceous carcinoma",
    "blastic plasmacytoid dendritic cell neoplasm",
}
MIXED = "spindle cell nevus of Reed"
"""Joins a malignant and a benign raw name, one photo each here."""

MALIGNANT_RAW = {"atypical-spindle-cell-nevus-of-reed"}
SINGLE = 25
"""Concepts with one photo; the remaining 27 have 2 to 10."""


def ddi_rows() -> list[dict[str, str]]:
    """656 rows in the columns of `ddi_metadata.csv`: 78 raw names, 65 concepts; the same at every call."""
    diseases, _ = read_diseases("builtin:ddi")
    raws: dict[str, list[str]] = defaultdict(list)
    for raw, concept in diseases.items():
        raws[concept.name].append(raw)
    items = [
        (raw, concept, concept in MALIGNANT_CONCEPTS or raw in MALIGNANT_RAW)
        for concept, size in _sizes(list(raws)).items()
        for raw in itertools.islice(itertools.cycle(sorted(raws[concept])), size)
    ]
    rng = random.Random(656)
    rng.shuffle(items)
    rows = []
    for malignant in (True, False):
        pool = {tone: (MALIGNANT[tone] if malignant else TONES[tone] - MALIGNANT[tone]) for tone in TONES}
        own = [item for item in items if item[2] is malignant]
        own.sort(key=lambda item: item[1] != "basal cell carcinoma")  # first choice, as it takes no dark place
        for raw, concept, _ in own:
            tones = [tone for tone in pool if pool[tone] and not (concept == "basal cell carcinoma" and tone == "56")]
            tone = rng.choices(tones, [pool[tone] for tone in tones])[0]
            pool[tone] -= 1
            rows.append({"skin_tone": tone, "malignant": str(malignant), "disease": raw})
    rng.shuffle(rows)
    for i, row in enumerate(rows):
        row |= {"": str(i), "DDI_ID": str(i + 1), "DDI_file": f"{i + 1:06d}.png"}
    return rows


def _sizes(concepts: list[str]) -> dict[str, int]:
    small = sorted(set(concepts) - set(COMMON))
    # both raw names of a joined concept must occur, and few malignant singles make the total of 171
    single = [c for c in small if c in MALIGNANT_CONCEPTS]
    single += [c for c in small if c not in MALIGNANT_CONCEPTS and c != MIXED][: SINGLE - len(single)]
    rest = [c for c in small if c not in single]
    sizes = dict.fromkeys(rest, 2)
    left = 656 - sum(COMMON.values()) - len(single) - 2 * len(rest)
    for concept in itertools.cycle([c for c in rest if c != MIXED]):
        if left == 0:
            break
        extra = min(left, len(concept) % 5, 10 - sizes[concept])
        sizes[concept] += extra
        left -= extra
    return {**COMMON, **dict.fromkeys(single, 1), **sizes}


def masked_files(rows: list[dict[str, str]]) -> list[str]:
    """Files of the 334 photos with a mask: the first ones of each tone."""
    left = dict(MASKED)
    found = []
    for row in rows:
        if left[row["skin_tone"]]:
            left[row["skin_tone"]] -= 1
            found.append(row["DDI_file"])
    return found


def write_ddi_shaped(directory: str | Path, photos: bool = False, variant: str = "malignant") -> Path:
    """Write `ddi_metadata.csv`, and with `photos` also `images/*.png` and `masks/*.npy`, all 334 of them.

    Args:
        directory: where to write.
        photos: write tiny pictures (32 x 24 px) and square masks (16 px, int32).
        variant: "malignant" (True or False) or "malignancy(malig=1)" (0 or 1), the two published forms.

    Returns:
        The metadata file.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    rows = ddi_rows()
    metadata = directory / "ddi_metadata.csv"
    with open(metadata, "w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(["", "DDI_ID", "DDI_file", "skin_tone", variant, "disease"])
        for row in rows:
            label = row["malignant"] if variant == "malignant" else str(int(row["malignant"] == "True"))
            writer.writerow([row[""], row["DDI_ID"], row["DDI_file"], row["skin_tone"], label, row["disease"]])
    if photos:
        _write_photos(directory, rows)
    return metadata


def _write_photos(directory: Path, rows: list[dict[str, str]]) -> None:
    (directory / "images").mkdir(exist_ok=True)
    (directory / "masks").mkdir(exist_ok=True)
    rng = np.random.default_rng(656)
    skin = {"12": (224, 182, 160), "34": (176, 128, 98), "56": (92, 62, 48)}
    masked = set(masked_files(rows))
    for row in rows:
        noise = rng.normal(0, 30, (6, 8, 3)).repeat(4, 0).repeat(4, 1)  # blocks, so that no two photos look alike
        photo = (np.array(skin[row["skin_tone"]]) + noise).clip(0, 255)
        photo[9:15, 12:20] *= 0.5
        (directory / "images" / row["DDI_file"]).write_bytes(encode_png(photo))
        if row["DDI_file"] in masked:
            mask = np.full((16, 16), SKIN, dtype=np.int32)
            mask[6:10, 6:10] = LESION
            mask[0], mask[-1, :8], mask[5, 6] = BACKGROUND, RULER, MARKER
            np.save(directory / "masks" / (Path(row["DDI_file"]).stem + ".npy"), mask)
