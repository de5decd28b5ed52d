"""Figures that compare tones, and differences between two settings on the same photos."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np

from cgddi.core.answers import Answers, influence_of_auc
from cgddi.core.bootstrap import stratified_weights
from cgddi.core.disparity import pooled
from cgddi.core.intervals import Estimated, likeness, smooth_interval, strata_interval
from cgddi.core.inversion import Disparity, disparities
from cgddi.core.metrics import confusion, demographic_disparity, equality_of_opportunity, predictive_quality_disparity

PAIRED = {"pqd": predictive_quality_disparity, "dpm": demographic_disparity, "eom": equality_of_opportunity}
"""Figures that compare tones and whose differences between regimes are shown."""
RESAMPLES = 400
"""Resamples behind the correlation of two regimes' figures."""


def disparities_of(answers: Answers, confidence: float, count: int, seed: int) -> dict[str, Disparity | None]:
    """Every figure that compares tones; see `cgddi.core.inversion.disparities`."""
    return disparities(answers.families, answers.classes, confidence, count, seed)


# ---- two settings on the same photos


def disparities_of_both(
    first: Answers, second: Answers, confidence: float, count: int, seed: int
) -> tuple[dict[str, Disparity | None], dict[str, Disparity | None]]:
    """Every figure that compares tones, of both, for `disparity_difference`: with the variance between runs that both have."""
    sides = pooled(first.families, second.families)
    return tuple(disparities(side, first.classes, confidence, count, seed) for side in sides)


def difference(
    first: Answers, second: Answers, metric: str, group: str, values: np.ndarray, confidence: float
) -> Estimated:
    """Interval of first minus second of a figure that compares no tones.

    Runs of several splits are paired in their order, since a split is easy or hard for both settings; runs of one split were
    trained apart, and vary each for itself.

    Args:
        values: of both settings by run, (2, runs), all of them defined.
    """
    here, units = first.group(group), first.units
    values = values if units is None else values[0] - values[1]
    right = first.right - second.right
    labels, apart = first.labels[here], right[:, here]
    strata = {
        "accuracy": [np.ones(len(labels), bool)],
        "sensitivity": [labels == 1],
        "specificity": [labels == 0],
        "balanced_accuracy": [labels == c for c in range(first.classes)],
    }
    if metric in strata:
        chosen = [apart[:, cell] for cell in strata[metric]]
        alike = likeness([right[:, cell] for cell in first.cells]) if len(right) > 1 else 1.0
        return strata_interval(chosen, [1 / len(chosen)] * len(chosen), (-1, 1), confidence, units, values, alike)
    influence = influence_of_auc(first, here) - influence_of_auc(second, here)
    rarest = np.bincount(labels, minlength=first.classes).min()
    return smooth_interval(values, influence, confidence, units, df=max(rarest - 1, 1))


def correlations(first: Answers, second: Answers) -> Mapping[str, float]:
    """Correlation of two settings' figures that compare tones: photos are resampled together, runs apart."""
    drawn = []
    rng = np.random.default_rng(0)
    for answers in (first, second):
        tested = ~np.isnan(answers.predicted)
        weights = _weights(answers.tones.tobytes(), answers.labels.tobytes())
        tables = [
            confusion(answers.labels[h], p[h].astype(int), answers.tones[h], answers.classes, weights[:, h])
            for h, p in zip(tested, answers.predicted, strict=True)
        ]
        runs = len(tables)
        choice = rng.integers(0, runs, (runs, RESAMPLES))
        picked = np.arange(RESAMPLES)
        values = {name: np.array([figure(table) for table in tables]) for name, figure in PAIRED.items()}
        drawn.append({name: value[choice, picked].mean(0) for name, value in values.items()})
    found = {}
    for name in PAIRED:
        a, b = (side[name] for side in drawn)
        good = np.isfinite(a) & np.isfinite(b)
        flat = good.sum() < 3 or np.ptp(a[good]) == 0 or np.ptp(b[good]) == 0
        found[name] = 0.0 if flat else float(np.clip(np.corrcoef(a[good], b[good])[0, 1], 0, 0.9))
    return found


@lru_cache(maxsize=8)
def _weights(tones: bytes, labels: bytes) -> np.ndarray:
    arrays = (np.frombuffer(part, int) for part in (tones, labels))
    return stratified_weights(*arrays, RESAMPLES, 0)


def disparity_difference(first: Disparity, second: Disparity, correlation: float) -> tuple[float, float, float]:
    """Difference of two figures that compare tones, with its interval, recovered from theirs (MOVER, Zou and Donner 2008).

    Returns:
        Lower limit, difference of the median-unbiased values, upper limit.
    """
    a, b = first, second
    value = a.middle - b.middle

    def half(x: float, y: float) -> float:
        return float(np.sqrt(max(x * x + y * y - 2 * correlation * x * y, 0)))

    return (
        value - half(a.middle - a.low, b.high - b.middle),
        value,
        value + half(a.high - a.middle, b.middle - b.low),
    )
