"""Figures over several data sets, each with photos, generators and test images of its own: the data set is the unit, not the image.

A data set's figure is the mean over its classifiers' seeds. Intervals are Student's over data sets, so that they cover the draw of
photos, of generators, of classifiers and of test images alike; differences between regimes are paired by data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import permutation_test, t

from cgddi.core.bootstrap import Run
from cgddi.core.images import TONES
from cgddi.core.metrics import run_metrics
from cgddi.stages.fairness.frames import RARITIES, rarity_of
from cgddi.stages.fairness.settings import FairnessSettings

BY_RARITY = ("accuracy", "balanced_accuracy", "auc", "sensitivity", "specificity")
KEYS = ["method", "regime", "metric", "group"]
GROUPS = ("all", *TONES, *RARITIES)
TESTED = (
    *(("accuracy", group) for group in GROUPS),
    *((metric, "all") for metric in ("balanced_accuracy", "auc", "sensitivity", "specificity", "pqd", "dpm", "eom")),
)


def run_values(run: Run, options: FairnessSettings) -> dict[tuple[str, str], tuple[float, int]]:
    """(metric, group) -> (value, test images) of one run, by tone and by rarity of the disease; NaN where undefined."""
    sizes = run.record["concept_images"][options.rarity_counts]
    rarity = np.asarray([rarity_of(sizes.get(name, 0), options) for name in run.images["concept"]])
    groups = [("all", np.ones(len(rarity), bool)), *((name, rarity == name) for name in RARITIES)]
    found: dict[tuple[str, str], tuple[float, int]] = {}
    for name, here in groups:
        part = (run.labels[here], run.predicted[here], run.probability[here], run.tones[here])
        values = run_metrics(*part, np.ones((1, int(here.sum()))), options.calibration_bins)
        for (metric, group), value in values.items():
            if name == "all":
                count = int(here.sum()) if group == "all" else int((run.tones == TONES.index(group)).sum())
                found[metric, group] = float(value[0]), count
            elif group == "all" and metric in BY_RARITY:
                found[metric, name] = float(value[0]), int(here.sum())
    return found


def by_dataset(runs: Mapping[str, Iterable[Run]], options: FairnessSettings) -> pd.DataFrame:
    """One row per data set, method, regime, metric and group: mean over classifier seeds (NaN where a run is undefined).

    Args:
        runs: name of the data set -> its runs. options: rarity and calibration as in the fairness stage.

    Returns:
        Columns dataset, method, regime, metric, group, value, runs, images, marks.
    """
    rows = []
    for dataset, members in runs.items():
        for run in members:
            about = {"dataset": dataset, "method": run.record["method"], "regime": run.record["regime"]}
            about["marks"] = "; ".join(run.marks)
            for (metric, group), (value, images) in run_values(run, options).items():
                rows.append({**about, "metric": metric, "group": group, "value": value, "images": images})
    table = pd.DataFrame(rows)
    grouped = table.groupby(["dataset", *KEYS], sort=False)
    made = grouped.agg(
        value=("value", lambda v: v.mean(skipna=False)),
        runs=("value", "size"),
        images=("images", "first"),
        marks=("marks", _joined),
    )
    return made.reset_index()


def interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Student interval of the mean of values (N,); NaN below two values or where one is NaN."""
    if len(values) < 2 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    half = t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def pooled(table: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Mean over data sets with its interval, cut at 0 and 1; `undefined` where the figure does not exist in every data set.

    Args:
        table: see `by_dataset`. confidence: coverage.
    """
    rows = []
    for key, part in table.groupby(KEYS, sort=False):
        values = part["value"].to_numpy()
        good = np.isfinite(values)
        row: dict[str, Any] = dict(zip(KEYS, key, strict=True))
        # Every figure lies between 0 and 1; Student's interval knows nothing of that.
        low, high = np.clip(interval(values, confidence), 0, 1)
        figures = (values.mean(), low, high) if good.all() else ("undefined",) * 3
        row.update(zip(("value", "low", "high"), (_rounded(v) for v in figures), strict=True))
        row["std_datasets"] = _rounded(values.std(ddof=1)) if good.all() and len(values) > 1 else None
        row.update(datasets=len(values), defined=int(good.sum()), runs=int(part["runs"].sum()))
        row.update(images=int(part["images"].sum()), marks=_joined(part["marks"]))
        rows.append(row)
    return pd.DataFrame(rows)


def _joined(marks: Iterable[str]) -> str:
    """Every different mark once."""
    return "; ".join(dict.fromkeys(mark for text in marks for mark in text.split("; ") if mark))


def _rounded(value):
    return value if isinstance(value, str) else round(float(value), 6)


def sign_flips(differences: np.ndarray) -> float:
    """Exact two-sided p of the mean of paired differences (N,) under all 2^N changes of sign; at least 2 / 2^N."""
    test = permutation_test(
        (differences, np.zeros_like(differences)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf if len(differences) <= 14 else 9999,
        rng=0,
    )
    return float(test.pvalue)


def differences(table: pd.DataFrame, compare: Sequence[tuple[str, str]], confidence: float) -> pd.DataFrame:
    """First regime minus second, paired by data set: mean, interval and p of Student's paired test, exact sign-flip p.

    Args:
        table: see `by_dataset`. compare: pairs of regimes. confidence: coverage.
    """
    rows = []
    wide = table.pivot(index=["method", "metric", "group", "dataset"], columns="regime", values="value")
    for method in dict.fromkeys(table["method"]):
        for first, second in compare:
            if first not in wide or second not in wide:
                continue
            for metric, group in TESTED:
                if (method, metric, group) not in wide.index.droplevel("dataset"):
                    continue
                part = wide.loc[(method, metric, group)]
                values = (part[first] - part[second]).to_numpy()
                row = {"method": method, "first": first, "second": second, "metric": metric, "group": group}
                if len(values) < 2 or not np.isfinite(values).all():
                    row.update(dict.fromkeys(("difference", "low", "high", "p_t", "p_sign_flips"), "undefined"))
                else:
                    low, high = interval(values, confidence)
                    spread = values.std(ddof=1) / np.sqrt(len(values))
                    statistic = values.mean() / spread if spread else np.inf * np.sign(values.mean())
                    p = 2 * t.sf(abs(statistic), len(values) - 1) if values.any() else 1.0
                    row.update(difference=_rounded(values.mean()), low=_rounded(low), high=_rounded(high))
                    row.update(p_t=_rounded(p), p_sign_flips=_rounded(sign_flips(values)))
                rows.append({**row, "first_better": int((values > 0).sum()), "datasets": len(values)})
    return pd.DataFrame(rows)
