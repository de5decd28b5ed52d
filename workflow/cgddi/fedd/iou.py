"""Intersection over union of a segmenter by class and tone, and the tone gap in lesion IoU, with paired bootstrap intervals.

IoU is pooled over images: sum of intersections over sum of unions (as DatasetDDPM's evaluation; Baranchuk et al. 2022). A class
that is neither in the truth nor in the prediction has no IoU: it is undefined (NaN), never imputed, and takes no part in the mean.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cgddi.core.bootstrap import Bootstrap, Setting
from cgddi.core.errors import InvalidInput, Problem, UserError
from cgddi.core.images import TONES
from cgddi.core.metrics import ratio

CLASSES = ("background", "lesion", "marker", "ruler", "skin")
COUNTS = ("intersection", "union", "predicted", "truth")
GROUPS = ("all", *TONES)
GAP = ("gap", "lesion")
"""Key of the tone gap: pooled lesion IoU of light skin minus that of dark skin."""


@dataclass(frozen=True)
class MaskRun:
    """Pixel counts of one segmenter's test images, ordered by image.

    Args:
        path: the table they come from.
        images: ids (N,). tones: indices into TONES (N,). labels: 1 malignant, 0 benign, -1 unknown (N,).
        counts: float64 (N, 5 classes, 4 kinds of `COUNTS`).
        record: what `Bootstrap` reads: runs of one `split` share their replicates, which makes differences paired.
    """

    path: str
    images: tuple[str, ...]
    tones: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    record: Mapping[str, Any]


def read_counts(path: str | Path) -> MaskRun:
    """A run's test.csv (image_id, tone, malignant, class, intersection, union, predicted, truth; one line per image and class).

    Raises:
        UserError: not such a table. InvalidInput: a line that cannot be right, an image without all classes.
    """
    try:
        with open(path, newline="") as handle:
            lines = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}). Run the segmenter again.") from error
    wanted = {"image_id", "tone", "malignant", "class", *COUNTS}
    if not lines or wanted - set(lines[0]):
        lack = ", ".join(sorted(wanted - set(lines[0]))) if lines else "any line"
        raise UserError(f"{path}: lacks {lack}. Give the test.csv of a segmenter of this study.")
    found: dict[str, dict[str, list[int]]] = {}
    heads: dict[str, tuple[str, str]] = {}
    problems = []
    for number, line in enumerate(lines, start=2):
        try:
            counts = [int(line[name]) for name in COUNTS]
            classes = found.setdefault(line["image_id"], {})
            head = (line["tone"], line["malignant"])
            good = 0 <= counts[0] <= min(counts[2:]) and counts[1] == counts[2] + counts[3] - counts[0]
            fits = line["class"] in CLASSES and line["tone"] in TONES and line["class"] not in classes
            if not good or not fits or heads.setdefault(line["image_id"], head) != head:
                raise ValueError
            classes[line["class"]] = counts
        except (ValueError, TypeError):
            message = "counts, class or tone cannot be right, or the line stands twice"
            problems.append(Problem(str(path), message, "Run the segmenter again.", row=number))
    problems += [
        Problem(str(path), f"image {image} lacks a class", "Run the segmenter again.")
        for image, classes in found.items()
        if len(classes) < len(CLASSES) and not problems
    ]
    if problems:
        raise InvalidInput(problems)
    images = tuple(sorted(found))
    return MaskRun(
        path=str(path),
        images=images,
        tones=np.array([TONES.index(heads[image][0]) for image in images]),
        labels=np.array([{"true": 1, "false": 0}.get(heads[image][1], -1) for image in images]),
        counts=np.array([[found[image][name] for name in CLASSES] for image in images], dtype=float),
        record={"split": "fedd"},
    )


def iou_values(run: MaskRun, weights: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """IoU by (class, group), the mean over defined classes ("mean", group), and the tone gap (`GAP`), each (B,).

    Args:
        run: its counts. weights: how often each image counts, (B, N).
    """
    values: dict[tuple[str, str], np.ndarray] = {}
    for group in GROUPS:
        mine = np.ones(len(run.tones), bool) if group == "all" else run.tones == TONES.index(group)
        summed = np.einsum("bn,nck->bck", weights[:, mine], run.counts[mine, :, :2])
        iou = ratio(summed[..., 0], summed[..., 1])
        values["mean", group] = ratio(np.nansum(iou, axis=1), np.isfinite(iou).sum(1))
        values.update({(name, group): iou[:, number] for number, name in enumerate(CLASSES)})
    values[GAP] = values["lesion", "light"] - values["lesion", "dark"]
    return values


def iou_rows(runs: Sequence[MaskRun], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """One row per class (and "mean") and group ("all" and tones): IoU averaged over the runs, with its interval.

    Args:
        runs: seeds of one setting, on the same test images.
        bootstrap: stratified by tone and malignancy.

    Returns:
        Rows with class, tone, iou, low, high (NaN when undefined), undefined_replicates (share), images (of the group), truth
        (pixels), predicted (pixels, mean over runs) and classes ("mean": how many classes are defined in every run).
    """
    replicates = _replicates(runs, bootstrap)
    rows = []
    for group in GROUPS:
        mine = np.ones(len(runs[0].tones), bool) if group == "all" else runs[0].tones == TONES.index(group)
        for name in (*CLASSES, "mean"):
            estimate = bootstrap.estimate(*replicates[name, group])
            part = slice(None) if name == "mean" else CLASSES.index(name)
            truth, predicted = (
                np.mean([run.counts[mine][:, part, COUNTS.index(kind)].sum() for run in runs])
                for kind in ("truth", "predicted")
            )
            defined = sum(bool(np.isfinite(replicates[each, group][0]).all()) for each in CLASSES)
            rows.append(
                {
                    "class": name,
                    "tone": group,
                    "iou": estimate.value,
                    "low": estimate.low,
                    "high": estimate.high,
                    "undefined_replicates": estimate.undefined,
                    "images": int(mine.sum()),
                    "truth": int(truth),
                    "predicted": float(predicted),
                    "classes": defined if name == "mean" else 1,
                }
            )
    return rows


def gap_row(runs: Sequence[MaskRun], bootstrap: Bootstrap) -> dict[str, Any]:
    """The tone gap in lesion IoU, light minus dark: gap, low, high, both IoUs, images and lesion pixels behind each."""
    replicates = _replicates(runs, bootstrap)
    estimate = bootstrap.estimate(*replicates[GAP])
    row: dict[str, Any] = {"gap": estimate.value, "low": estimate.low, "high": estimate.high}
    row["undefined_replicates"] = estimate.undefined
    for tone in ("light", "dark"):
        mine = runs[0].tones == TONES.index(tone)
        lesion = runs[0].counts[mine, CLASSES.index("lesion")]
        row[tone] = float(np.mean(replicates["lesion", tone][0]))
        row[f"{tone}_images"], row[f"{tone}_pixels"] = int(mine.sum()), int(lesion[:, COUNTS.index("truth")].sum())
    return row | {"runs": len(runs)}


def compare_rows(first: Sequence[MaskRun], second: Sequence[MaskRun], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Second minus first on the same test images: the tone gap, lesion IoU and mean IoU, overall and by tone.

    Each replicate weighs the images of both alike (paired). Rows have metric ("gap", "lesion" or "mean"), tone, first, second,
    difference, low, high, p (two-sided bootstrap, 2 min(P(d <= 0), P(d >= 0)), at least 2/(B + 1)) and undefined_replicates.

    Raises:
        UserError: the test images differ.
    """
    if first[0].images != second[0].images:
        raise UserError(
            f"{first[0].path} and {second[0].path}: other test images; only segmenters of one study are compared."
        )
    ours, theirs = _replicates(first, bootstrap), _replicates(second, bootstrap)
    rows = []
    for key in (GAP, *((name, group) for name in ("lesion", "mean") for group in GROUPS)):
        values = ours[key][0].mean(), theirs[key][0].mean()
        differences = theirs[key][1] - ours[key][1]
        estimate = bootstrap.estimate(np.array([values[1] - values[0]]), differences)
        good = differences[np.isfinite(differences)]
        p = float("nan")
        if estimate.defined and len(good):
            p = min(1.0, 2 * (min(int((good <= 0).sum()), int((good >= 0).sum())) + 1) / (len(good) + 1))
        rows.append(
            {
                "metric": key[0],
                "tone": "light-dark" if key == GAP else key[1],
                "first": float(values[0]),
                "second": float(values[1]),
                "difference": estimate.value,
                "low": estimate.low,
                "high": estimate.high,
                "p": p,
                "undefined_replicates": estimate.undefined,
            }
        )
    return rows


def _replicates(runs: Sequence[MaskRun], bootstrap: Bootstrap) -> dict:
    if any(run.images != runs[0].images for run in runs):
        raise UserError(f"{runs[0].path} and its other seeds have other test images. Run the study's segmenters again.")
    return bootstrap.replicates(Setting("fedd", "", "", tuple(runs)), iou_values)
