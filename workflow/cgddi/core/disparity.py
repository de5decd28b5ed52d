"""The figures that compare tones (PQD, DPM, EOM, differences, the worst tone): the rates that each takes, as measured, and
the value it makes of the least and the greatest of them. Their intervals: `cgddi.core.inversion`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cgddi.core.intervals import likeness
from cgddi.core.metrics import ratio

Value = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""(least, greatest) rate of the tones -> a figure."""
VALUE: dict[str, Value] = {
    "ratio": lambda low, high: ratio(low, high),
    "two ratios": lambda low, high: (ratio(low, high) + ratio(1 - high, 1 - low)) / 2,
    "spread": lambda low, high: high - low,
    "least": lambda low, high: low,
}
EQUAL = {"ratio": 1.0, "two ratios": 1.0, "spread": 0.0}
"""A figure's value where all tones have one rate."""


@dataclass(frozen=True)
class Family:
    """Rates that a figure compares over G tones.

    Attributes:
        rate: as measured, (runs, G). size: photos of one run behind them, (G,); more than there are where the classes' rates
            differ, since the mean of two rates varies less than one rate of that mean. alike: correlation of two runs on one photo.
        common, own: variance between runs of the rates' logits that tones share, and each tone's own. doubt: the latter as the
            mean over runs may have it: not below half of what runs differ by, whatever photos explain.
        settings: how many settings' runs these variances were measured on.
    """

    rate: np.ndarray
    size: np.ndarray
    alike: float
    common: float = 0.0
    own: float = 0.0
    doubt: float = 0.0
    settings: int = 1


@dataclass(frozen=True)
class Figure:
    """How a figure is made: families by name, the value of each, and how these are joined (mean or max)."""

    families: tuple[str, ...]
    value: str
    join: str = "mean"


def figures_for(classes: int) -> dict[str, Figure]:
    """The figures that compare tones; the differences need two classes."""
    recall = tuple(f"recall {c}" for c in range(classes))
    found = {
        "worst_tone_accuracy": Figure(("accuracy",), "least"),
        "pqd": Figure(("accuracy",), "ratio"),
        "dpm": Figure(("called 1",), "two ratios"),
        "eom": Figure(recall, "ratio"),
    }
    if classes > 2:
        return found | {"dpm": Figure(tuple(f"called {c}" for c in range(classes)), "ratio")}
    return found | {
        "equalized_odds_difference": Figure(recall, "spread", "max"),
        "equal_opportunity_difference": Figure(("recall 1",), "spread"),
    }


def value_of(figure: Figure, rates: np.ndarray) -> np.ndarray:
    """A figure from rates (F, G, ...) of its families; (...)."""
    value = VALUE[figure.value]
    found = [value(np.minimum.reduce(family), np.maximum.reduce(family)) for family in rates]
    return found[0] if len(found) == 1 else getattr(np, figure.join)(found, axis=0)


def measured_value(figure: Figure, families: Sequence[Family]) -> float:
    """A figure as measured: the mean over runs, NaN where it does not exist for one of them."""
    return float(value_of(figure, np.stack([family.rate.T for family in families])).mean())


# ---- what was measured


def families_of(
    labels: np.ndarray, tones: np.ndarray, predicted: np.ndarray, classes: int, groups: int
) -> dict[str, Family]:
    """The families of a setting; one without photos of a tone is left out.

    Args:
        labels, tones: (N,). predicted: class by run, (runs, N), NaN where a run did not test a photo. classes, groups: their
            numbers.
    """
    asked = ~np.isnan(predicted)
    cells = [[(tones == g) & (labels == c) for c in range(classes)] for g in range(groups)]
    counts = np.array([[(asked & cell).sum(1) for cell in row] for row in cells], float)
    counts = counts.transpose(2, 0, 1)
    called = np.stack([[[(predicted == k)[:, cell].sum(1) for k in range(classes)] for cell in row] for row in cells])
    called = called.transpose(3, 0, 1, 2) / np.maximum(counts, 1)[..., None]
    right = np.where(asked, predicted == labels, np.nan)
    alike = 1.0
    if len(predicted) > 1:
        both = asked.astype(float) @ asked.T
        overlap = (both.sum() - np.trace(both)) / ((len(both) - 1) * np.trace(both))
        alike = overlap * likeness([right[:, cell] for row in cells for cell in row if cell.any()])
    total, found = counts.sum(2), {}
    if (total > 0).all():
        recall = np.diagonal(called, axis1=2, axis2=3)
        found["accuracy"] = _mixed(recall, counts, alike)
        for k in range(classes):
            found[f"called {k}"] = _mixed(called[..., k], counts, alike)
    for c in range(classes):
        if (counts[..., c] > 0).all():
            found[f"recall {c}"] = _family(called[..., c, c], counts[..., c].mean(0), alike)
    return found


def pooled(first: dict[str, Family], second: dict[str, Family]) -> tuple[dict[str, Family], dict[str, Family]]:
    """Families of two settings, each with the mean of both settings' variances between runs, as Student's test of two samples
    has it: of a difference only their sum counts, and it is known with twice the degrees of freedom."""
    sides: tuple[dict[str, Family], dict[str, Family]] = ({}, {})
    for name in first.keys() & second.keys():
        both = (first[name], second[name])
        shared = {part: sum(getattr(family, part) for family in both) / 2 for part in ("common", "own", "doubt")}
        for side, family in zip(sides, both, strict=True):
            side[name] = replace(family, **shared, settings=2)
    return sides


def _mixed(rates: np.ndarray, counts: np.ndarray, alike: float) -> Family:
    """Family of means over classes of rates (runs, G, C) with counts (runs, G, C)."""
    n, mean = counts.mean(0), rates.mean(0)
    smooth = (mean * n + 2 * mean.mean(0)) / (n + 2)
    smooth = np.clip(smooth, 0.02, 0.98)
    share = (smooth * n).sum(1) / n.sum(1)
    variance = (smooth * (1 - smooth) * n).sum(1) / n.sum(1)
    size = n.sum(1) * np.clip(share * (1 - share) / variance, 1, 3)
    return _family((rates * counts).sum(2) / counts.sum(2), size, alike)


def _family(rate: np.ndarray, size: np.ndarray, alike: float) -> Family:
    """A family with the variance between its runs, by moments: what runs differ by less what photos explain."""
    runs, groups = rate.shape
    if runs == 1 or groups == 1:
        return Family(rate, size, alike)
    share = (rate.mean(0) * size + 0.5) / (size + 1)
    slope = share * (1 - share)
    noise = (1 - alike) / (slope * size)
    moved = (rate - rate.mean(0)) / slope
    covariance = moved.T @ moved / (runs - 1)
    raw, explained = ((part * size).sum() / size.sum() for part in (np.diag(covariance), noise))
    weight = np.sqrt(np.outer(size, size)) * (1 - np.eye(groups))
    common = max((covariance * weight).sum() / weight.sum(), 0)
    apart = max(raw - common, 0)
    return Family(rate, size, alike, common, max(apart - explained, 0), max(apart - explained, apart / 2))
