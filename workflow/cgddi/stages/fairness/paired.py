"""Tests of the difference between two regimes on the same test images."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import binomtest

from cgddi.core.bootstrap import Bootstrap, Run, Setting
from cgddi.core.images import TONES
from cgddi.core.metrics import run_metrics

TESTED = (
    *(("accuracy", group) for group in ("all", *TONES)),
    *((metric, "all") for metric in ("balanced_accuracy", "auc", "sensitivity", "specificity", "pqd", "dpm", "eom")),
)


def mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """Exact McNemar test (Dietterich 1998; binomial form).

    Args:
        first, second: bool (N,), whether each classifier is right on each image.

    Returns:
        Images only the first has right, images only the second has right, and the two-sided p-value (1 without any).
    """
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    return b, c, 1.0 if b + c == 0 else float(binomtest(b, b + c, 0.5).pvalue)


def ensemble_correct(setting: Setting, split: str) -> np.ndarray:
    """Whether the mean probability over the seeds of one split predicts each test image right, bool (N,)."""
    runs = [run for run in setting.runs if run.record["split"] == split]
    return np.mean([run.probability for run in runs], axis=0).argmax(1) == runs[0].labels


def compare(first: Setting, second: Setting, bootstrap: Bootstrap, bins: int) -> list[dict[str, Any]]:
    """Rows of the paired table: first minus second, over the runs both have (same split and seed).

    Each metric has a paired bootstrap interval over test images and runs, and the two-sided bootstrap p-value
    2 min(P(d <= 0), P(d >= 0)), at least 2/(B + 1). McNemar's test is on the mean probability over seeds, one vote per image.
    Settings without a common run give no rows.
    """
    have = {(run.record["split"], run.seed) for run in second.runs}
    common = [(run.record["split"], run.seed) for run in first.runs if (run.record["split"], run.seed) in have]
    if not common:
        return []
    left = Setting(first.split, first.regime, first.method, tuple(_pick(first, common)))
    right = Setting(second.split, second.regime, second.method, tuple(_pick(second, common)))

    def metric(run: Run, weights: np.ndarray):
        values = run_metrics(run.labels, run.predicted, run.probability, run.tones, weights, bins)
        return {key: values[key] for key in TESTED if key in values}

    a, b = bootstrap.replicates(left, metric), bootstrap.replicates(right, metric)
    splits = sorted({split for split, _ in common})
    votes = [(ensemble_correct(left, split), ensemble_correct(right, split)) for split in splits]
    only_first, only_second, p_mcnemar = mcnemar(*(np.concatenate(part) for part in zip(*votes, strict=True)))
    rows = []
    for key in a:
        differences = a[key][1] - b[key][1]
        estimate = bootstrap.estimate(a[key][0] - b[key][0], differences)
        good = differences[np.isfinite(differences)]
        p = float("nan")
        if estimate.defined and len(good):
            p = min(1.0, 2 * (min((good <= 0).sum(), (good >= 0).sum()) + 1) / (len(good) + 1))
        row = {
            "split": first.split,
            "method": first.method,
            "first": first.regime,
            "second": second.regime,
            "metric": key[0],
            "group": key[1],
            "difference": estimate.value,
            "low": estimate.low,
            "high": estimate.high,
            "p_bootstrap": p,
            "runs": len(common),
            "images": sum(len(vote[0]) for vote in votes),
            "undefined_replicates": estimate.undefined,
            "marks": "; ".join(dict.fromkeys([*first.marks, *second.marks])),
        }
        if key == ("accuracy", "all"):
            row.update(mcnemar_only_first=only_first, mcnemar_only_second=only_second, p_mcnemar=p_mcnemar)
        rows.append(row)
    return rows


def _pick(setting: Setting, common) -> list[Run]:
    runs = {(run.record["split"], run.seed): run for run in setting.runs}
    return [runs[key] for key in common]
