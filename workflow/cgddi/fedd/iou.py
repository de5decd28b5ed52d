"""Pixel counts of masks, and intersection over union from them by class and tone, with paired bootstrap intervals.

IoU is pooled over images: sum of intersections over sum of unions (as DatasetDDPM's evaluation; Baranchuk et al. 2022). A class
that is neither in the truth nor in the prediction has no IoU: it is undefined (NaN), never imputed, and takes no part in the mean.
(ddpm-segmentation counts such a class as 0.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgddi.core.archive import file_sha256
from cgddi.core.bootstrap import Bootstrap, Estimate, Setting
from cgddi.core.errors import UserError
from cgddi.core.images import CLASSES, TONES
from cgddi.core.metrics import PIXEL_COUNTS, ratio

NAMES = tuple(CLASSES)
GROUPS = ("all", *TONES)
GAP = ("gap", "lesion")
"""Key of the tone gap: pooled lesion IoU of light skin minus that of dark skin."""


@dataclass(frozen=True)
class MaskRun:
    """Pixel counts of one segmenter's test images, ordered by image.

    Args:
        images: ids (N,). tones: indices into TONES (N,). labels: 1 malignant, 0 benign, -1 unknown (N,).
        counts: (N, 5 classes, 4 kinds of `PIXEL_COUNTS`).
        record: for `Bootstrap`: runs of one `split` share their replicates, which makes differences paired.
    """

    images: tuple[str, ...]
    tones: np.ndarray
    labels: np.ndarray
    counts: np.ndarray
    record: Mapping[str, Any] = field(default_factory=lambda: {"split": "fedd"})


def read_table(path: Path, columns: Sequence[str], record: Mapping[str, Any]) -> pd.DataFrame:
    """A result table of a run, all cells as text.

    Raises:
        UserError: it cannot be read, lacks a column or any line, or is another than the run's record says.
    """
    try:
        named = record.get("outputs", {}).get(path.name)
        if named and file_sha256(path) != named["sha256"]:
            raise ValueError("its record names another")
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Run the job that makes it again.") from error
    lacking = [name for name in columns if name not in table.columns]
    if lacking or table.empty:
        raise UserError(f"{path}: lacks {', '.join(lacking) or 'any line'}. Run the job that makes it again.")
    return table


Labels = Mapping[str, "bool | None"]
"""Image id -> whether malignant; None: unknown."""


def with_labels(table: pd.DataFrame, labels: Labels | None) -> pd.DataFrame:
    """A run's table, its column malignant (true, false or empty) filled in where the run was not told.

    Args:
        table: with image_id and malignant. labels: of the photos that it was only tested on.
    """
    known = {image: str(label).lower() for image, label in (labels or {}).items() if label is not None}
    cells = zip(table["image_id"], table["malignant"], strict=True)
    return table.assign(malignant=[told or known.get(image, "") for image, told in cells])


def read_counts(
    path: Path, record: Mapping[str, Any], absent: str = "undefined", labels: Labels | None = None
) -> MaskRun:
    """A run's test.csv (image_id, tone, malignant, class and `PIXEL_COUNTS`; one line per image and class).

    Args:
        record: the run's. absent: IoU of a class in neither mask, `undefined` or `zero`. labels: see `with_labels`.

    Raises:
        UserError: see `read_table`.
    """
    table = with_labels(read_table(path, ("image_id", "tone", "malignant", "class", *PIXEL_COUNTS), record), labels)
    counts = table[list(PIXEL_COUNTS)].apply(pd.to_numeric)
    table = table.assign(place=table["class"].map(CLASSES)).sort_values(["image_id", "place"], kind="stable")
    heads = table[table["place"] == 0]
    return MaskRun(
        images=tuple(heads["image_id"]),
        tones=heads["tone"].map(TONES.index).to_numpy(),
        labels=heads["malignant"].map({"true": 1, "false": 0}).fillna(-1).astype(int).to_numpy(),
        counts=counts.loc[table.index].to_numpy(float).reshape(len(heads), len(NAMES), len(PIXEL_COUNTS)),
        record={"split": "fedd", "absent": absent},
    )


def joined(first: MaskRun, second: MaskRun) -> MaskRun:
    """Two sets of images of one run as one."""
    parts = {
        name: np.concatenate([getattr(run, name) for run in (first, second)]) for name in ("tones", "labels", "counts")
    }
    record = {**first.record, "split": "fedd further"}
    return MaskRun(images=(*first.images, *second.images), **parts, record=record)


def interval(estimate: Estimate) -> dict[str, float]:
    """The columns low, high and undefined_replicates of a table."""
    return {"low": estimate.low, "high": estimate.high, "undefined_replicates": estimate.undefined}


def in_group(tones: np.ndarray, group: str) -> np.ndarray:
    """Which images are of a group ("all" or a tone), bool (N,); tones: indices into TONES (N,)."""
    return np.ones(len(tones), bool) if group == "all" else tones == TONES.index(group)


def iou_values(run: MaskRun, weights: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """IoU by (class, group), the mean over defined classes ("mean", group), and the tone gap (`GAP`), each (B,).

    Args:
        run: its counts. weights: how often each image counts, (B, N).
    """
    values: dict[tuple[str, str], np.ndarray] = {}
    for group in GROUPS:
        mine = in_group(run.tones, group)
        summed = np.einsum("bn,nck->bck", weights[:, mine], run.counts[mine, :, :2])
        iou = ratio(summed[..., 0], summed[..., 1])
        if run.record.get("absent") == "zero":
            iou = np.where(np.isnan(iou) & (weights[:, mine].sum(1) > 0)[:, None], 0.0, iou)
        values["mean", group] = ratio(np.nansum(iou, axis=1), np.isfinite(iou).sum(1))
        values |= {(name, group): iou[:, number] for name, number in CLASSES.items()}
    values[GAP] = values["lesion", "light"] - values["lesion", "dark"]
    return values


def _replicates(runs: Sequence[MaskRun], bootstrap: Bootstrap) -> dict:
    return bootstrap.replicates(Setting("fedd", "", "", tuple(runs)), iou_values)


def iou_rows(runs: Sequence[MaskRun], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """One row per class (and "mean") and group ("all" and tones): IoU averaged over the runs, with its interval.

    Args:
        runs: seeds of one setting, on the same test images. bootstrap: stratified by tone and malignancy.

    Returns:
        Rows with class, tone, iou, low, high (NaN when undefined), undefined_replicates (share), images (of the group), truth
        (pixels), predicted (pixels, mean over runs) and classes ("mean": how many classes are defined in every run).
    """
    replicates = _replicates(runs, bootstrap)
    rows = []
    for group in GROUPS:
        mine = in_group(runs[0].tones, group)
        defined = sum(bool(np.isfinite(replicates[name, group][0]).all()) for name in NAMES)
        for name in (*NAMES, "mean"):
            estimate = bootstrap.estimate(*replicates[name, group])
            part = slice(None) if name == "mean" else slice(CLASSES[name], CLASSES[name] + 1)
            predicted, truth = np.mean([run.counts[mine, part, 2:].sum((0, 1)) for run in runs], axis=0)
            rows.append(
                {"class": name, "tone": group, "iou": estimate.value, **interval(estimate), "images": int(mine.sum())}
                | {"truth": int(truth), "predicted": float(predicted), "classes": defined if name == "mean" else 1}
            )
    return rows


def gap_row(runs: Sequence[MaskRun], bootstrap: Bootstrap) -> dict[str, Any]:
    """The tone gap in lesion IoU, light minus dark: gap, low, high, both IoUs, images and lesion pixels behind each."""
    replicates = _replicates(runs, bootstrap)
    estimate = bootstrap.estimate(*replicates[GAP])
    row: dict[str, Any] = {"gap": estimate.value, **interval(estimate)}
    for tone in ("light", "dark"):
        mine = in_group(runs[0].tones, tone)
        row[tone] = float(np.mean(replicates["lesion", tone][0]))
        row[f"{tone}_images"] = int(mine.sum())
        row[f"{tone}_pixels"] = int(runs[0].counts[mine, CLASSES["lesion"], PIXEL_COUNTS.index("truth")].sum())
    return row | {"runs": len(runs)}


def compare_rows(first: Sequence[MaskRun], second: Sequence[MaskRun], bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Second minus first on the same test images: the tone gap, lesion IoU and mean IoU, overall and by tone.

    Each replicate weighs the images of both alike (paired). Rows have metric ("gap", "lesion" or "mean"), tone, first, second,
    difference, low, high, p (two-sided bootstrap, 2 min(P(d <= 0), P(d >= 0)), at least 2/(B + 1)) and undefined_replicates.
    """
    ours, theirs = _replicates(first, bootstrap), _replicates(second, bootstrap)
    rows = []
    for metric, tone in (GAP, *((name, group) for name in ("lesion", "mean") for group in GROUPS)):
        values = [replicates[metric, tone][0].mean() for replicates in (ours, theirs)]
        differences = theirs[metric, tone][1] - ours[metric, tone][1]
        estimate = bootstrap.estimate(np.array([values[1] - values[0]]), differences)
        good = differences[np.isfinite(differences)]
        p = float("nan")
        if estimate.defined and len(good):
            p = min(1.0, 2 * (min(int((good <= 0).sum()), int((good >= 0).sum())) + 1) / (len(good) + 1))
        low, high, undefined = interval(estimate).values()
        row = {"metric": metric, "tone": "light-dark" if (metric, tone) == GAP else tone}
        row |= {"first": float(values[0]), "second": float(values[1]), "difference": estimate.value}
        rows.append(row | {"low": low, "high": high, "p": p, "undefined_replicates": undefined})
    return rows
