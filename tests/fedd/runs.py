"""Run folders of a made-up study, in the formats the stages write: what a network gets right is set by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from cgddi.core.archive import write_atomic
from cgddi.core.images import LESION, SKIN, TONES
from cgddi.fedd.features.files import ImageFeatures, write_features
from cgddi.fedd.study import Photos, iou_csv, pictures, predictions_csv

SUBSETS = {"5": 10, "20": 40}
SIZE = 32


def test_rows(per_tone: int = 4, malignant: dict[str, int] | None = None) -> list[dict[str, Any]]:
    """Test images, half of each tone malignant unless said otherwise."""
    malignant = {tone: per_tone // 2 for tone in TONES} | (malignant or {})
    return [
        {"image_id": f"{tone}{k}", "skin_tone": tone, "malignant": k < malignant[tone]}
        for tone in TONES
        for k in range(per_tone)
    ]


def lesion_masks(rows: list[dict[str, Any]], shift: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    """Truth and prediction (N, SIZE, SIZE): a 10 x 10 px lesion, predicted so many px to the right of it by tone.

    Every second image is predicted one px better, so that intervals have a width.
    """
    truth = np.full((len(rows), SIZE, SIZE), SKIN, np.uint8)
    predicted = truth.copy()
    for place, row in enumerate(rows):
        right = 8 + max(0, shift[row["skin_tone"]] - place % 2)
        truth[place, 8:18, 8:18] = LESION
        predicted[place, 8:18, right : right + 10] = LESION
    return truth, predicted


def write_segmenter(
    folder: Path,
    subset: str,
    shift: dict[str, int],
    rows=None,
    variant: str | None = "plain",
    network=None,
    seed: int = 0,
) -> Path:
    """A segmenter's or (with `network`) a U-Net's folder."""
    rows = rows or test_rows()
    truth, predicted = lesion_masks(rows, shift)
    kind = {"task": "segmentation", "network": network} if network else {"variant": variant}
    record = {**kind, "subset": subset, "run_seed": seed, "training_images": []}
    uncertainty = None if network else (truth != predicted).astype(np.float32)
    photos = np.where(truth[:, None] == LESION, 90, 200).astype(np.uint8).repeat(3, 1)
    write_atomic(folder / "record.json", json.dumps(record))
    write_atomic(folder / "test.csv", iou_csv(rows, predicted, truth))
    write_atomic(
        folder / "pictures.safetensors", pictures(Photos(tuple(rows), photos, truth), predicted, uncertainty, 0)
    )
    return folder


def write_probe(folder: Path, subset: str, timestep: int, wrong: dict[int, tuple[int, int]], rows=None) -> Path:
    """A probe's folder; `wrong` is block -> how many validation and test images it gets wrong."""
    rows = rows or test_rows()
    lines = []
    for block, counts in wrong.items():
        for role, errors in zip(("validation", "test"), counts, strict=True):
            for k, row in enumerate(rows):
                malignant = row["malignant"] is not (5 * k % len(rows) < errors)
                chance = (0.9 if malignant else 0.1) - 0.001 * k
                name = row["image_id"] if role == "test" else "v" + row["image_id"]
                lines.append({**row, "image_id": name, "role": role, "block": block, "seed": 0, "probability": chance})
    write_atomic(folder / "record.json", json.dumps({"subset": subset, "timestep": timestep, "training_images": []}))
    write_atomic(folder / "predictions.csv", predictions_csv(lines))
    return folder


def write_classifier(folder: Path, subset: str, network: str, errors: int, threshold: float = 0.5, rows=None) -> Path:
    """A baseline classifier's folder that gets so many test images wrong."""
    write_probe(folder, subset, 0, {0: (errors, errors)}, rows)
    facts = {"task": "classification", "network": network, "subset": subset, "run_seed": 0, "threshold": threshold}
    write_atomic(folder / "record.json", json.dumps({**facts, "training_images": []}))
    text = (folder / "predictions.csv").read_text().replace(",0,0,", ",,0,")
    write_atomic(folder / "predictions.csv", text)
    return folder


def write_study_runs(root: Path) -> tuple[list[Path], Path]:
    """A study of two subsets: FEDD plain is worse on dark skin, reweighting closes the gap; and a feature file."""
    found = []
    for subset in SUBSETS:
        off = 4 if subset == "5" else 2
        gap, even = {"light": off // 2, "medium": off, "dark": 2 * off}, dict.fromkeys(TONES, off)
        found += [write_segmenter(root / f"segmenter/plain/{subset}/0", subset, gap)]
        found += [write_segmenter(root / f"segmenter/reweight/{subset}/0", subset, even, variant="reweight")]
        for network in ("resnet50", "efficientnet-b0"):
            folder = root / f"baseline/segmentation/{network}/{subset}/0"
            found += [write_segmenter(folder, subset, dict.fromkeys(TONES, off + 2), network=network)]
        for timestep in (0, 100, 300):
            # Block 4 is best on validation, block 6 on test: the test must not choose.
            wrong = {2: (4, 4), 4: (1, 3), 6: (2, 0)} if timestep == 100 else {2: (5, 5), 4: (5, 5), 6: (0, 0)}
            found += [write_probe(root / f"probe/{subset}/t{timestep:04d}", subset, timestep, wrong)]
        for network, errors in (("resnet50", 4), ("deepderm", 6)):
            folder = root / f"baseline/classification/{network}/{subset}/0"
            found += [write_classifier(folder, subset, network, errors, 0.687 if network == "deepderm" else 0.5)]
    features = root / "features/t0100/study.safetensors"
    y, x = np.mgrid[:8, :8]
    clusters = {b: torch.from_numpy(((y // 3 + x // (b + 2)) % 3).astype(np.uint8)) for b in (2, 4, 6)}
    shown = {f"{tone}0": ImageFeatures(kmeans=clusters) for tone in TONES}
    write_features(features, shown, {}, model="m", size=SIZE, timestep=100, crop="resize", blocks=18)
    return found, features


def spec(**keys: Any) -> dict[str, Any]:
    """The tables' spec."""
    subsets = [{"name": name, "per_tone": n} for name, n in SUBSETS.items()]
    base = {
        "settings": {"bootstrap": 200},
        "seed": 1,
        "cohort": "ddi",
        "subsets": subsets,
        "timestep": 100,
        "blocks": [4],
    }
    return base | keys
