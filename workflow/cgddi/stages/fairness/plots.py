"""Plots: ROC by tone, metrics with intervals, calibration."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from sklearn.metrics import roc_curve

from cgddi.core.bootstrap import Setting
from cgddi.core.figures import COLOURS, GRID, plt, png
from cgddi.core.images import TONES
from cgddi.stages.fairness.tables import signs

SHOWN = ("accuracy", "auc", "sensitivity", "specificity", "pqd", "dpm", "eom")


def _panels(settings: Sequence[Setting]):
    columns = min(4, max(1, len(settings)))
    rows = -(-max(1, len(settings)) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3.2 * columns, 3.3 * rows), squeeze=False, layout="constrained")
    for axis in axes.flat[len(settings) :]:
        axis.axis("off")
    return figure, list(axes.flat)


def _title(setting: Setting) -> str:
    return setting.name.replace("/", " / ") + signs("; ".join(setting.marks))


def roc_by_tone(settings: Sequence[Setting]) -> bytes:
    """ROC curves by tone, averaged over runs at equal false positive rate; one panel per setting with two classes."""
    settings = [setting for setting in settings if len(setting.runs[0].classes) == 2]
    figure, axes = _panels(settings)
    if not settings:
        axes[0].text(0.5, 0.5, "no setting with two classes", ha="center")
    for setting, axis in zip(settings, axes, strict=False):
        for group in ("all", *TONES):
            curves = []
            for run in setting.runs:
                here = np.ones(len(run.labels), bool) if group == "all" else run.tones == TONES.index(group)
                if 0 < run.labels[here].sum() < here.sum():
                    fpr, tpr, _ = roc_curve(run.labels[here], run.probability[here, 1])
                    curves.append(np.interp(GRID, fpr, tpr))
            label = f"{group} (n={here.sum()})" if curves else f"{group}: undefined"
            axis.plot(
                GRID, np.mean(curves, axis=0) if curves else np.full_like(GRID, np.nan), c=COLOURS[group], label=label
            )
        axis.plot([0, 1], [0, 1], ":", c="grey", lw=0.8)
        axis.set(title=_title(setting), xlabel="false positive rate", ylabel="true positive rate")
        axis.title.set_fontsize(8)
        axis.legend(fontsize=6, loc="lower right")
    return png(figure)


def metrics_with_intervals(metrics: pd.DataFrame) -> bytes:
    """Each metric of each setting with its interval and, as a cross, the published value; accuracy also by tone."""
    wanted = [("accuracy", tone) for tone in TONES] + [(metric, "all") for metric in SHOWN]
    names = list(dict.fromkeys(zip(metrics["split"], metrics["regime"], metrics["method"], strict=True)))
    marks = metrics.groupby(["split", "regime", "method"], sort=False)["marks"].first()
    labels = [" / ".join(name) + signs(marks[name]) for name in names]
    figure, axes = plt.subplots(
        2, 5, figsize=(16, 2.2 + 0.5 * len(names)), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (metric, group) in zip(axes.flat, wanted, strict=True):
        part = metrics[(metrics["metric"] == metric) & (metrics["group"] == group)]
        for row in part.itertuples(index=False):
            place = names.index((row.split, row.regime, row.method))
            if row.value == "undefined":
                axis.text(0.5, place, "undefined", ha="center", va="center", fontsize=7)
                continue
            axis.plot([row.low, row.high], [place, place], c="black", lw=1)
            axis.plot(row.value, place, "o", c="black", ms=4)
            if not pd.isna(row.published):
                axis.plot(row.published, place, "x", c="#d55e00", ms=6)
        axis.set(
            title=metric if group == "all" else f"{metric}, {group}", xlim=(0, 1.02), ylim=(len(names) - 0.5, -0.5)
        )
        axis.set_yticks(range(len(names)), labels, fontsize=7)
        axis.grid(axis="x", lw=0.3)
    crosses = "" if metrics["published"].isna().all() else "; orange cross: published"
    figure.supxlabel(f"dot: ours, with its interval{crosses}", fontsize=8)
    return png(figure)


def calibration(settings: Sequence[Setting], bins: int = 10) -> bytes:
    """Reliability: share of positives (or of right predictions) against probability, by tone, all runs of a setting pooled."""
    figure, axes = _panels(settings)
    for setting, axis in zip(settings, axes, strict=False):
        binary = len(setting.runs[0].classes) == 2
        chance, hit, tone = [], [], []
        for run in setting.runs:
            own = run.probability[np.arange(len(run.labels)), run.predicted]
            chance.append(run.probability[:, 1] if binary else own)
            hit.append(run.labels if binary else run.labels == run.predicted)
            tone.append(run.tones)
        chance, hit, tone = np.concatenate(chance), np.concatenate(hit).astype(float), np.concatenate(tone)
        for group in ("all", *TONES):
            here = np.ones(len(hit), bool) if group == "all" else tone == TONES.index(group)
            place = np.minimum((chance[here] * bins).astype(int), bins - 1)
            size = np.bincount(place, minlength=bins)
            good = size > 0
            x = np.bincount(place, chance[here], bins)[good] / size[good]
            y = np.bincount(place, hit[here], bins)[good] / size[good]
            axis.plot(x, y, "o-", c=COLOURS[group], ms=3, lw=1, label=group)
        axis.plot([0, 1], [0, 1], ":", c="grey", lw=0.8)
        share = "share of positives" if binary else "share right"
        axis.set(title=_title(setting), xlabel="probability", ylabel=share)
        axis.title.set_fontsize(8)
        axis.legend(fontsize=6, loc="upper left")
    return png(figure)
