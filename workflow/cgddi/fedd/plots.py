"""Plots of the study: learning curves, the tone gap, the ablation, and ROC curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from cgddi.core.figures import COLOURS, GRID, plt, png
from cgddi.core.images import TONES
from cgddi.fedd.malignancy_tables import setting_of
from cgddi.fedd.study_runs import FEDD, Predictions

OWN = {"plain": "#0072b2", "": "#0072b2", "reweight": "#d55e00", "augment": "#009e73", "centre": "#56b4e9"}
OTHERS = ("#999999", "#cc79a7", "#e69f00", "#7f6d5f", "#6a4c93")


def name_of(model: str, variant: str = "", segments: bool = True) -> str:
    """What figures and tables call a model."""
    if model == FEDD:
        return f"FEDD {variant}".strip()
    return f"U-Net {model}" if segments else {"deepderm": "DeepDerm"}.get(model, model)


def _styles(keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], dict]:
    others = cycle(OTHERS)
    return {
        key: {"c": OWN.get(key[1], "#0072b2"), "lw": 1.8, "marker": "o", "ms": 4}
        if key[0] == FEDD
        else {"c": next(others), "lw": 1, "marker": "s", "ms": 3, "ls": "--"}
        for key in keys
    }


def _curves(axis, table: pd.DataFrame, value: str, subsets: Mapping[str, int], segments: bool) -> None:
    """One line per model over the subsets, with intervals; published values as crosses, pale when on other data."""
    keys = list(dict.fromkeys(zip(table["model"], table["variant"], strict=True)))
    for shift, (key, style) in enumerate(_styles(keys).items()):
        mine = (
            table[(table["model"] == key[0]) & (table["variant"] == key[1])].set_index("subset").reindex(list(subsets))
        )
        x = np.arange(len(subsets)) + (shift - (len(keys) - 1) / 2) * 0.06
        values, low, high = (mine[name].to_numpy(float) for name in (value, "low", "high"))
        axis.plot(x, values, label=name_of(*key, segments), **style)
        axis.vlines(x, low, high, color=style["c"], lw=0.8, alpha=0.7)
        published = mine["published"].to_numpy(float)
        same = np.array([flag is True for flag in mine["published_same"]])
        for here, alpha in ((same, 1.0), (~same, 0.45)):
            axis.plot(x[here], published[here], "x", c=style["c"], ms=7, mew=1.6, alpha=alpha)
    labels = [f"{name}\n{len(TONES) * per_tone} photos" for name, per_tone in subsets.items()]
    axis.set_xticks(range(len(subsets)), labels, fontsize=8)
    axis.set_xlabel("training subset", fontsize=8)
    axis.grid(axis="y", lw=0.3)


def _legend(figure, axes, note: str) -> None:
    handles, labels = axes.get_legend_handles_labels()
    handles.append(plt.Line2D([], [], marker="x", ls="", c="black", ms=7, mew=1.6))
    figure.legend(handles, [*labels, note], loc="outside lower center", ncols=4, fontsize=8)


def _note(*tables: pd.DataFrame) -> str:
    flags = pd.concat([table["published_same"] for table in tables]).dropna()
    return "published (pale: on other data)" if len(flags) and not flags.astype(bool).all() else "published"


def learning_curves(iou: pd.DataFrame, subsets: Mapping[str, int]) -> bytes:
    """IoU against the subset: all classes, lesion and skin overall, then lesion by tone, for every segmenter.

    Args:
        iou: see `iou_frame`. subsets: name -> training photos per tone, by size.
    """
    panels = [("mean", "all"), ("lesion", "all"), ("skin", "all"), *(("lesion", tone) for tone in TONES)]
    figure, axes = plt.subplots(2, 3, figsize=(11, 7), sharey=True, layout="constrained")
    for axis, (name, tone) in zip(axes.flat, panels, strict=True):
        part = iou[(iou["class"] == name) & (iou["tone"] == tone)]
        _curves(axis, part, "iou", subsets, segments=True)
        title = "mean of classes" if name == "mean" else name
        axis.set_title(
            f"{title}, {tone} (n={part['images'].iloc[0]})" if len(part) else f"{title}, {tone}", fontsize=10
        )
        axis.set_ylim(0, 1)
    for axis in axes[:, 0]:
        axis.set_ylabel("IoU")
    _legend(figure, axes.flat[0], _note(iou))
    return png(figure)


def gap_plot(gap: pd.DataFrame, subsets: Mapping[str, int]) -> bytes:
    """Lesion IoU of light minus that of dark skin, by subset, with intervals: zero is no gap."""
    figure, axis = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    _curves(axis, gap, "gap", subsets, segments=True)
    axis.axhline(0, c="black", lw=0.8)
    axis.set(ylabel="lesion IoU, light minus dark")
    _legend(figure, axis, _note(gap))
    return png(figure)


def classification_plot(table: pd.DataFrame, subsets: Mapping[str, int]) -> bytes:
    """AUC overall and F1 by tone against the subset, for the chosen probes and the baselines."""
    panels = [("auc", "all"), *(("f1", tone) for tone in TONES)]
    figure, axes = plt.subplots(1, 4, figsize=(13, 4.2), sharey=True, layout="constrained")
    for axis, (metric, tone) in zip(axes, panels, strict=True):
        part = table[(table["metric"] == metric) & (table["tone"] == tone)]
        _curves(axis, part, "value", subsets, segments=False)
        if not np.isfinite(part["value"].to_numpy(float)).any():
            axis.text(0.5, 0.5, "undefined", ha="center", transform=axis.transAxes)
        counts = f"n={part['images'].iloc[0]}, {part['malignant'].iloc[0]} malignant"
        axis.set_title(f"{'AUC' if metric == 'auc' else 'F1'}, {tone} ({counts})", fontsize=9)
        axis.set_ylim(0, 1.02)
    _legend(figure, axes[0], _note(table))
    return png(figure)


def ablation_plot(ablation: pd.DataFrame, subsets: Sequence[str]) -> bytes:
    """Accuracy of the probe by block and timestep, one column per subset; the block chosen on validation is framed."""
    blocks, steps = sorted(ablation["block"].unique()), sorted(ablation["timestep"].unique())
    width = max(2.6, 0.22 * len(steps) + 1)
    figure, axes = plt.subplots(
        2,
        len(subsets),
        figsize=(width * len(subsets) + 1, 2 * max(2.2, 0.2 * len(blocks) + 0.8)),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    for column, subset in enumerate(subsets):
        part = ablation[ablation["subset"] == subset]
        for axis, role in zip(axes[:, column], ("validation", "test"), strict=True):
            grid = part.pivot(index="block", columns="timestep", values=role).reindex(index=blocks, columns=steps)
            picture = axis.imshow(grid.to_numpy(float), vmin=0, vmax=1, cmap="viridis", aspect="auto", origin="lower")
            for cell in part[part["chosen"]].itertuples():
                corner = steps.index(cell.timestep) - 0.5, blocks.index(cell.block) - 0.5
                axis.add_patch(plt.Rectangle(corner, 1, 1, fill=False, ec="#ff2d00", lw=2, clip_on=False))
                now = getattr(cell, role)
                images = getattr(cell, f"{role}_images")
                title = f"{subset}: {role} (n={images})\nblock {cell.block} at t={cell.timestep}: {now:.2f}"
                axis.set_title(title, fontsize=8)
            every = max(1, len(steps) // 7)
            axis.set_xticks(range(0, len(steps), every), steps[::every], fontsize=7)
            axis.set_yticks(range(len(blocks)), blocks, fontsize=6)
    for axis in axes[:, 0]:
        axis.set_ylabel("decoder block", fontsize=8)
    figure.supxlabel("timestep", fontsize=9)
    figure.colorbar(picture, ax=axes, label="accuracy", shrink=0.7)
    return png(figure)


def roc_plot(
    settings: Sequence[tuple[str, str, list[Predictions]]], subsets: Sequence[str], table: pd.DataFrame
) -> bytes:
    """ROC on the test images, one column per subset: all models above, the chosen probe by tone beneath."""
    figure, axes = plt.subplots(
        2,
        len(subsets),
        figsize=(3.1 * len(subsets) + 0.4, 6.6),
        squeeze=False,
        sharex=True,
        sharey=True,
        layout="constrained",
    )
    styles = _styles(list(dict.fromkeys((model, "") for model, *_ in settings)))
    auc = table[table["metric"] == "auc"].set_index(["model", "subset", "tone"])["value"]
    for column, subset in enumerate(subsets):
        for model, of, runs in settings:
            if of != subset:
                continue
            style = {key: value for key, value in styles[model, ""].items() if key in ("c", "lw", "ls")}
            label = f"{name_of(model, segments=False)} {_number(auc[model, subset, 'all'])}"
            axes[0, column].plot(GRID, _mean_curve(runs, None), label=label, **style)
            if model == FEDD:
                for place, tone in enumerate(TONES):
                    label = f"{tone} {_number(auc[model, subset, tone])}"
                    axes[1, column].plot(GRID, _mean_curve(runs, place), c=COLOURS[tone], label=label)
        axes[0, column].set_title(subset, fontsize=9)
    for axis in axes.flat:
        axis.plot([0, 1], [0, 1], ":", c="grey", lw=0.8)
        if axis.get_legend_handles_labels()[1]:
            axis.legend(fontsize=6, loc="lower right", title="AUC", title_fontsize=6)
    axes[0, 0].set_ylabel("all models\ntrue positive rate", fontsize=8)
    axes[1, 0].set_ylabel("FEDD by tone\ntrue positive rate", fontsize=8)
    figure.supxlabel("false positive rate", fontsize=9)
    return png(figure)


def _number(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else "undefined"


def _mean_curve(runs: Sequence[Predictions], tone: int | None) -> np.ndarray:
    """True positive rate on `GRID`, averaged over seeds; NaN without both classes."""
    curves = []
    for run in setting_of(runs, "test").runs:
        here = np.ones(len(run.labels), bool) if tone is None else run.tones == tone
        if 0 < run.labels[here].sum() < here.sum():
            rates = roc_curve(run.labels[here], run.probability[here, 1])[:2]
            curves.append(np.interp(GRID, *rates))
    return np.mean(curves, axis=0) if curves else np.full_like(GRID, np.nan)
