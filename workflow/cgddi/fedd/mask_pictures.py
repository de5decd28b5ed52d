"""Pictures of the study: predicted masks beside the truth, and K-means of the diffusion model's blocks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open

from cgddi.core.figures import plt, png
from cgddi.core.images import CLASS_COLOURS, CLASSES, LESION
from cgddi.fedd.features_io import FeatureFiles
from cgddi.fedd.plots import name_of
from cgddi.fedd.study_runs import FEDD, Segmentation

PALETTE = np.array(list(CLASS_COLOURS.values()), np.uint8)
"""Colours of background, lesion, marker, ruler and skin."""
CLUSTERS = np.array([(68, 1, 84), (33, 145, 140), (253, 231, 37), (230, 97, 1), (200, 200, 200)], np.uint8)
PICTURES = "pictures.safetensors"


def read_pictures(folder: Path) -> dict[str, dict[str, Any]]:
    """Pictures a segmentation run kept: image id -> tone, malignant, photo, truth, predicted, uncertainty (or None)."""
    path = folder / PICTURES
    if not path.is_file():
        return {}
    found = {}
    with safe_open(path, "numpy") as tensors:
        names = set(tensors.keys())
        for image in json.loads(tensors.metadata()["cgddi"])["images"]:
            parts = {}
            for part in ("photo", "truth", "predicted", "uncertainty"):
                key = f"{image['image_id']}/{part}"
                parts[part] = tensors.get_tensor(key) if key in names else None
            found[image["image_id"]] = {"tone": image["tone"], "malignant": image["malignant"], **parts}
    return found


def lesion_iou(predicted: np.ndarray, truth: np.ndarray) -> float:
    """IoU of the lesion in one picture, NaN where neither mask has one."""
    union = ((predicted == LESION) | (truth == LESION)).sum()
    return float(((predicted == LESION) & (truth == LESION)).sum() / union) if union else float("nan")


def masks_picture(settings: Mapping[tuple[str, str, str], list[Segmentation]], subset: str) -> bytes | None:
    """Test images in rows: photo, truth, each segmenter's mask and, for FEDD, how much its networks disagree.

    Args:
        settings: runs by (model, variant, subset). subset: whose segmenters are shown (the largest).

    Returns:
        PNG bytes, or None when no run kept pictures.
    """
    runs = {key[:2]: read_pictures(found[0].folder) for key, found in settings.items() if key[2] == subset}
    runs = {key: shown for key, shown in runs.items() if shown}
    if not runs:
        return None
    order = sorted(runs, key=lambda key: (key[0] != FEDD, key[1] != "plain", key))
    first = runs[order[0]]
    titles = ["photo", "human mask"]
    for key in order:
        titles += [name_of(*key)] + (["its uncertainty"] if _uncertain(runs[key]) else [])
    figure, axes = plt.subplots(
        len(first),
        len(titles),
        figsize=(1.55 * len(titles), 1.75 * len(first) + 0.7),
        squeeze=False,
        layout="constrained",
    )
    for row, (name, image) in zip(axes, first.items(), strict=True):
        kind = {True: "malignant", False: "benign"}.get(image["malignant"], "")
        cells = [(image["photo"], f"{image['tone']}, {kind}"), (PALETTE[image["truth"]], "")]
        for key in order:
            mine = runs[key].get(name)
            if mine is None:
                cells += [(None, "")] * (2 if _uncertain(runs[key]) else 1)
                continue
            value = lesion_iou(mine["predicted"], mine["truth"])
            text = f"lesion IoU {value:.2f}" if np.isfinite(value) else "lesion IoU undefined"
            cells.append((PALETTE[mine["predicted"]], text))
            if mine["uncertainty"] is not None:
                cells.append((plt.get_cmap("magma")(mine["uncertainty"])[..., :3], ""))
        for axis, (picture, text) in zip(row, cells, strict=True):
            axis.set_axis_off()
            if picture is not None:
                axis.imshow(picture, interpolation="nearest")
                axis.text(0.5, -0.03, text, ha="center", va="top", fontsize=7, transform=axis.transAxes)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    patches = [plt.Rectangle((0, 0), 1, 1, fc=PALETTE[number] / 255) for number in CLASSES.values()]
    figure.legend(patches, CLASSES, loc="outside lower center", ncols=5, fontsize=8)
    return png(figure)


def _uncertain(shown: Mapping[str, Mapping[str, Any]]) -> bool:
    return any(image["uncertainty"] is not None for image in shown.values())


def kmeans_picture(
    features: Sequence[str | Path], photos: Mapping[str, np.ndarray], blocks: Sequence[int]
) -> bytes | None:
    """K-means (K = 3) of every stored block, one row per image, its photo first; the segmenter's blocks are marked.

    Args:
        features: feature files of the main timestep. photos: image id -> uint8 (H, W, 3), where known.
        blocks: the segmenter's.

    Returns:
        PNG bytes, or None when the files hold no clusters.
    """
    files = FeatureFiles(features)
    shown = {name: files.blocks(name, "kmeans") for name in files.images}
    shown = {name: found for name, found in shown.items() if found}
    if not shown:
        return None
    columns = sorted({block for found in shown.values() for block in found})
    figure, axes = plt.subplots(
        len(shown),
        len(columns) + 1,
        figsize=(0.9 * (len(columns) + 1), 0.95 * len(shown) + 0.5),
        squeeze=False,
        layout="constrained",
    )
    for row, (name, found) in zip(axes, shown.items(), strict=True):
        for axis in row:
            axis.set_axis_off()
        if name in photos:
            small = Image.fromarray(photos[name])
            row[0].imshow(np.asarray(small.resize((64, 64), Image.Resampling.LANCZOS)))
        for axis, block in zip(row[1:], columns, strict=True):
            if block in found:
                axis.imshow(CLUSTERS[np.asarray(files.kmeans(name, block)) % len(CLUSTERS)], interpolation="nearest")
    axes[0][0].set_title("photo", fontsize=7)
    for axis, block in zip(axes[0][1:], columns, strict=True):
        axis.set_title(f"{block}*" if block in blocks else str(block), fontsize=7)
    return png(figure)
