"""Plots of the study: learning curves, the tone gap, the ablation, ROC curves, masks, and K-means of the model's blocks."""

import json
from collections.abc import Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image
from safetensors import safe_open
from sklearn.metrics import roc_curve

from cgddi.core.bootstrap import Run
from cgddi.core.errors import UserError
from cgddi.core.figures import COLOURS, GRID, plt, png
from cgddi.core.images import CLASSES, LESION, TONES
from cgddi.core.metrics import class_counts
from cgddi.fedd.features.files import FeatureFiles
from cgddi.fedd.iou import Labels, in_group
from cgddi.fedd.tables.frames import FEDD, Groups, StudyRun, setting_of

OWN = {"plain": "#0072b2", "": "#0072b2", "reweight": "#d55e00", "centre": "#56b4e9"}
OTHERS = ("#999999", "#cc79a7", "#e69f00", "#7f6d5f", "#6a4c93", "#117733")
PALETTE = np.array([(90, 90, 90), (213, 94, 0), (0, 114, 178), (240, 228, 66), (240, 200, 170)], np.uint8)
"""Colours of background, lesion, marker, ruler and skin."""
CLUSTERS = np.array([(68, 1, 84), (33, 145, 140), (253, 231, 37)], np.uint8)


def name_of(model: str, variant: str = "", segments: bool = True) -> str:
    """What figures and tables call a model."""
    if model == FEDD:
        return f"FEDD {variant}".strip()
    return f"U-Net {model}" if segments else {"deepderm": "DeepDerm"}.get(model, model)


def two(value: float) -> str:
    """A figure with two decimals."""
    return f"{value:.2f}" if np.isfinite(value) else "undefined"


def _styles(keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], dict]:
    others = cycle(OTHERS)
    return {
        key: {"c": OWN[key[1]], "lw": 1.8, "marker": "o", "ms": 4}
        if key[0] == FEDD
        else {"c": next(others), "lw": 1, "marker": "s", "ms": 3, "ls": "--"}
        for key in dict.fromkeys(keys)
    }


def curves(
    panels: Mapping[str, pd.DataFrame], value: str, per_tone: Mapping[str, int], label: str, columns: int, segments=True
) -> bytes:
    """One panel each: a line per model over the training subsets, with intervals; published values as crosses.

    Args:
        panels: title -> rows with model, variant, subset, the value, low, high, published and published_same. value: its column.
        per_tone: subset -> training photos per tone, by size. label: of the value. columns: panels in a row.
    """
    rows = -(-len(panels) // columns)
    size = (3.4 * columns + 0.8, 3.4 * rows + 0.8) if len(panels) > 1 else (7.5, 4.6)
    figure, axes = plt.subplots(rows, columns, figsize=size, sharey=True, squeeze=False, layout="constrained")
    every = pd.concat(panels.values())
    styles = _styles(list(zip(every["model"], every["variant"], strict=True)))
    for axis, (title, table) in zip(axes.flat, panels.items(), strict=True):
        for shift, (key, style) in enumerate(styles.items()):
            mine = table[(table["model"] == key[0]) & (table["variant"] == key[1])].set_index("subset")
            mine = mine.reindex(list(per_tone))
            x = np.arange(len(per_tone)) + (shift - (len(styles) - 1) / 2) * 0.06
            values, low, high, published = (mine[name].to_numpy(float) for name in (value, "low", "high", "published"))
            axis.plot(x, values, label=name_of(*key, segments), **style)
            axis.vlines(x, low, high, color=style["c"], lw=0.8, alpha=0.7)
            same = np.array([flag is True for flag in mine["published_same"]])
            for here, alpha in ((same, 1.0), (~same, 0.45)):
                axis.plot(x[here], published[here], "x", c=style["c"], ms=7, mew=1.6, alpha=alpha)
        if not np.isfinite(table[value].to_numpy(float)).any():
            axis.text(0.5, 0.5, "undefined", ha="center", transform=axis.transAxes)
        subsets = [f"{name}\n{len(TONES) * count} photos" for name, count in per_tone.items()]
        axis.set_xticks(range(len(per_tone)), subsets, fontsize=8)
        axis.set_xlabel("training subset", fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.grid(axis="y", lw=0.3)
        if value == "gap":
            axis.axhline(0, c="black", lw=0.8)
        else:
            axis.set_ylim(0, 1.02)
    for axis in axes[:, 0]:
        axis.set_ylabel(label)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    handles.append(plt.Line2D([], [], marker="x", ls="", c="black", ms=7, mew=1.6))
    other = not every["published_same"].dropna().astype(bool).all()
    note = "published (pale: on other data)" if other else "published"
    figure.legend(handles, [*labels, note], loc="outside lower center", ncols=4, fontsize=8)
    return png(figure)


def learning_curves(iou: pd.DataFrame, per_tone: Mapping[str, int]) -> bytes:
    """IoU against the subset: all classes, lesion and skin overall, then lesion by tone, for every segmenter (see `iou_frame`)."""
    panels = {}
    for name, tone in (("mean", "all"), ("lesion", "all"), ("skin", "all"), *(("lesion", tone) for tone in TONES)):
        part = iou[(iou["class"] == name) & (iou["tone"] == tone)]
        panels[f"{'mean of classes' if name == 'mean' else name}, {tone} (n={part['images'].iloc[0]})"] = part
    return curves(panels, "iou", per_tone, "IoU", 3)


def classification_curves(table: pd.DataFrame, per_tone: Mapping[str, int]) -> bytes:
    """AUC overall and F1 by tone against the subset, for the chosen probes and the baselines (see `classification_frame`)."""
    panels = {}
    for metric, tone in (("auc", "all"), *(("f1", tone) for tone in TONES)):
        part = table[(table["metric"] == metric) & (table["tone"] == tone)]
        counts = f"n={part['images'].iloc[0]}, {part['malignant'].iloc[0]} malignant"
        panels[f"{metric.upper()}, {tone} ({counts})"] = part
    return curves(panels, "value", per_tone, "", 4, segments=False)


def ablation_plot(ablation: pd.DataFrame, subsets: Sequence[str]) -> bytes:
    """Accuracy of the probe by block and timestep, one column per subset; the block chosen on validation is framed."""
    blocks, steps = sorted(ablation["block"].unique()), sorted(ablation["timestep"].unique())
    width, height = max(2.6, 0.22 * len(steps) + 1), max(2.2, 0.2 * len(blocks) + 0.8)
    size = (width * len(subsets) + 1, 2 * height)
    options = {"squeeze": False, "sharex": True, "sharey": True, "layout": "constrained"}
    figure, axes = plt.subplots(2, len(subsets), figsize=size, **options)
    for column, subset in enumerate(subsets):
        part = ablation[ablation["subset"] == subset]
        for axis, role in zip(axes[:, column], ("validation", "test"), strict=True):
            grid = part.pivot(index="block", columns="timestep", values=role).reindex(index=blocks, columns=steps)
            picture = axis.imshow(grid.to_numpy(float), vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
            for cell in part[part["chosen"]].itertuples():
                corner = steps.index(cell.timestep) - 0.5, blocks.index(cell.block) - 0.5
                axis.add_patch(plt.Rectangle(corner, 1, 1, fill=False, ec="#ff2d00", lw=2, clip_on=False))
                title = f"{subset}: {role} (n={getattr(cell, f'{role}_images')})\n"
                title += f"block {cell.block} at t={cell.timestep}: {getattr(cell, role):.2f}"
                axis.set_title(title, fontsize=8)
            every = max(1, len(steps) // 7)
            axis.set_xticks(range(0, len(steps), every), steps[::every], fontsize=7)
            axis.set_yticks(range(len(blocks)), blocks, fontsize=6)
    for axis in axes[:, 0]:
        axis.set_ylabel("decoder block", fontsize=8)
    figure.supxlabel("timestep", fontsize=9)
    figure.colorbar(picture, ax=axes, label="accuracy", shrink=0.7)
    return png(figure)


def dermatologists_curve(path: str, run: Run) -> tuple[np.ndarray, np.ndarray, float]:
    """ROC of an ensemble of dermatologists on the test images of a run: false and true positive rates, and AUC.

    Args:
        path: csv with image_id and probability (share of them who say malignant). run: whose test images and labels count.

    Raises:
        UserError: it cannot be read, lacks a column or a test image, or holds what is no share.
    """
    try:
        table = pd.read_csv(path, dtype={"image_id": str}).set_index("image_id")["probability"]
        share = pd.to_numeric(table, errors="coerce").reindex(run.images["image_id"]).to_numpy()
    except (OSError, ValueError, KeyError) as error:
        remedy = "Give columns image_id and probability, one row per test photo, in fedd.tables.dermatologists."
        raise UserError(f"{path}: cannot be read as what dermatologists said ({error}). {remedy}") from error
    if len(bad := [name for name, value in zip(run.images["image_id"], share, strict=True) if not 0 <= value <= 1]):
        raise UserError(
            f"{path}: no probability in 0..1 for {len(bad)} test photo(s) (first: {bad[0]}). Add or fix them."
        )
    fpr, tpr, _ = roc_curve(run.labels, share)
    return fpr, tpr, float(np.trapezoid(tpr, fpr))


def roc_plot(groups: Groups, subsets: Sequence[str], table: pd.DataFrame, dermatologists: str | None = None) -> bytes:
    """ROC on the test images, one column per subset: all models above (and dermatologists), the chosen probe by tone beneath."""
    options = {"squeeze": False, "sharex": True, "sharey": True, "layout": "constrained"}
    figure, axes = plt.subplots(2, len(subsets), figsize=(3.1 * len(subsets) + 0.4, 6.6), **options)
    styles = _styles([(model, "") for model, _ in groups])
    auc = table[table["metric"] == "auc"].set_index(["model", "subset", "tone"])["value"]
    for column, subset in enumerate(subsets):
        for (model, _), runs in ((key, runs) for key, runs in groups.items() if key[1] == subset):
            style = {key: value for key, value in styles[model, ""].items() if key in ("c", "lw", "ls")}
            label = f"{name_of(model, segments=False)} {two(auc[model, subset, 'all'])}"
            axes[0, column].plot(GRID, _mean_curve(runs, "all"), label=label, **style)
            for tone in TONES if model == FEDD else ():
                label = f"{tone} {two(auc[model, subset, tone])}"
                axes[1, column].plot(GRID, _mean_curve(runs, tone), c=COLOURS[tone], label=label)
        if dermatologists:
            first = next(iter(groups.values()))[0].results["test"]
            fpr, tpr, area = dermatologists_curve(dermatologists, first)
            axes[0, column].plot(fpr, tpr, "--", c="black", lw=1.2, label=f"dermatologists {two(area)}")
        axes[0, column].set_title(subset, fontsize=9)
    for axis in axes.flat:
        axis.plot([0, 1], [0, 1], ":", c="grey", lw=0.8)
        if axis.get_legend_handles_labels()[1]:
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.1), "ncols": 2}
            axis.legend(fontsize=6, title="AUC", title_fontsize=6, **place)
    axes[0, 0].set_ylabel("all models\ntrue positive rate", fontsize=8)
    axes[1, 0].set_ylabel("FEDD by tone\ntrue positive rate", fontsize=8)
    figure.supxlabel("false positive rate", fontsize=9)
    return png(figure)


def _mean_curve(runs: Sequence[StudyRun], group: str) -> np.ndarray:
    """True positive rate on `GRID`, averaged over seeds; NaN without both classes."""
    rates = []
    for run in setting_of(runs).runs:
        here = in_group(run.tones, group)
        if 0 < run.labels[here].sum() < here.sum():
            rates.append(np.interp(GRID, *roc_curve(run.labels[here], run.probability[here, 1])[:2]))
    return np.mean(rates, axis=0) if rates else np.full_like(GRID, np.nan)


def read_pictures(folder: Path) -> dict[str, dict[str, Any]]:
    """Pictures a segmentation run kept: image id -> tone, malignant, photo, truth, predicted, and uncertainty if any."""
    path = folder / "pictures.safetensors"
    if not path.is_file():
        return {}
    with safe_open(path, "numpy") as tensors:
        images = {image["image_id"]: image for image in json.loads(tensors.metadata()["cgddi"])["images"]}
        for name in tensors.keys():  # noqa: SIM118 (not a mapping)
            image, part = name.rsplit("/", 1)
            images[image][part] = tensors.get_tensor(name)
    return images


def _grid(rows: int, titles: Sequence[str], size: float, fontsize: int):
    """A figure of pictures without axes, the titles above the first row."""
    shape = (size * len(titles), 1.1 * size * rows + 0.6)
    figure, axes = plt.subplots(rows, len(titles), figsize=shape, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=fontsize)
    return figure, axes


def masks_picture(groups: Groups, subset: str, labels: Labels | None = None) -> bytes | None:
    """Test images in rows: photo, truth, each segmenter's mask and, for FEDD, how much its networks disagree.

    Args:
        groups: see `segmenters_in_order`. subset: whose segmenters are shown (the largest). labels: see `with_labels`.

    Returns:
        PNG bytes, or None when no run kept pictures.
    """
    kept = {key[:2]: read_pictures(runs[0].folder) for key, runs in groups.items() if key[2] == subset}
    kept = {key: images for key, images in kept.items() if images}
    if not kept:
        return None
    first = next(iter(kept.values()))
    columns = [("photo", None, "photo"), ("human mask", None, "truth")]
    for key, images in kept.items():
        columns.append((name_of(*key), images, "predicted"))
        if any("uncertainty" in image for image in images.values()):
            columns.append(("its uncertainty", images, "uncertainty"))
    figure, axes = _grid(len(first), [title for title, *_ in columns], 1.55, 8)
    for row, (name, image) in zip(axes, first.items(), strict=True):
        for axis, (_, images, part) in zip(row, columns, strict=True):
            shown = (images or first).get(name, {})
            if part not in shown:
                continue
            picture, text = shown[part], ""
            if part == "photo":
                malignant = (labels or {}).get(name, image["malignant"])
                text = f"{image['tone']}, {({True: 'malignant', False: 'benign'}).get(malignant, '')}"
            elif part == "uncertainty":
                picture = plt.get_cmap("magma")(picture)[..., :3]
            else:
                picture = PALETTE[picture]
            if part == "predicted":
                both, either = class_counts(shown[part][None], shown["truth"][None])[0, LESION, :2]
                text = f"lesion IoU {two(both / either if either else np.nan)}"
            axis.imshow(picture, interpolation="nearest")
            axis.text(0.5, -0.03, text, ha="center", va="top", fontsize=7, transform=axis.transAxes)
    patches = [plt.Rectangle((0, 0), 1, 1, fc=PALETTE[number] / 255) for number in CLASSES.values()]
    figure.legend(patches, CLASSES, loc="outside lower center", ncols=5, fontsize=8)
    return png(figure)


def kmeans_picture(
    features: Sequence[str | Path], photos: Mapping[str, np.ndarray], blocks: Sequence[int]
) -> bytes | None:
    """K-means (K = 3) of every stored block, one row per image, its photo first; the segmenter's blocks are marked.

    Args:
        features: feature files of the main timestep. photos: image id -> uint8 (H, W, 3), where known. blocks: the segmenter's.

    Returns:
        PNG bytes, or None when the files hold no clusters.
    """
    files = FeatureFiles(features)
    shown = {name: files.blocks(name, "kmeans") for name in files.images}
    shown = {name: clustered for name, clustered in shown.items() if clustered}
    if not shown:
        return None
    columns = sorted({block for clustered in shown.values() for block in clustered})
    titles = ["photo", *(f"{block}*" if block in blocks else str(block) for block in columns)]
    figure, axes = _grid(len(shown), titles, 0.9, 7)
    for row, (name, clustered) in zip(axes, shown.items(), strict=True):
        if name in photos:
            row[0].imshow(np.asarray(Image.fromarray(photos[name]).resize((64, 64), Image.Resampling.LANCZOS)))
        for axis, block in zip(row[1:], columns, strict=True):
            if block in clustered:
                axis.imshow(CLUSTERS[np.asarray(files.kmeans(name, block))], interpolation="nearest")
    return png(figure)
