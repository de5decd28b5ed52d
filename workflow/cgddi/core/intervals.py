"""Intervals of shares, areas under ROC curves, their sums and differences that keep their coverage in small groups.

What an interval is about. One run: this fitted classifier on the population that the test photos come from. Several runs: the
mean over all runs that could have been trained; test photos and runs are both drawn. Runs answer the same photos, so five runs
on ten photos are neither ten nor fifty answers: a photo's part of the variance does not shrink with the number of runs, a run's
part not with the photos.

Answers are matrices (runs, N), NaN where a run did not test a photo. `units` names the level that is drawn (N runs of one split:
the run; runs of several splits: the split), one name per run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.stats import beta, binom, norm, rankdata, t

Interval = tuple[float, float]
BORROWED = 4.0
"""Degrees of freedom that a group's variance between runs borrows from the other tones."""
TRUST = 6.0
"""How many photos of the rarer class the theoretical variance of an AUC weighs as much as, beside the measured one."""


# ---- one run: exact


@lru_cache(maxsize=4096)
def blaker(right: int, images: int, confidence: float = 0.95) -> Interval:
    """Blaker's exact interval of a share (Blaker 2000): covers at least `confidence`, and lies inside Clopper and Pearson's.

    Args:
        right, images: whole numbers, 0 <= right <= images, images > 0.
    """
    if not 0 <= right <= images or images < 1:
        raise ValueError(f"{right} of {images} is no share")
    if 2 * right < images:
        low, high = blaker(images - right, images, confidence)
        return 1 - high, 1 - low
    tail, share = (1 - confidence) / 2, right / images

    def border(outside: float) -> float:
        """The accepted share nearest to a limit of Clopper and Pearson, between that and the share."""
        inside = share
        for _ in range(3):
            grid = np.linspace(outside, inside, 101)
            first = int(np.argmax(_acceptability(right, images, grid) > 1 - confidence))
            outside, inside = grid[max(first - 1, 0)], grid[first]
        return float(inside)

    low = border(beta.ppf(tail, right, images - right + 1))
    return low, 1.0 if right == images else border(beta.ppf(1 - tail, right + 1, images - right))


def _acceptability(right: int, images: int, share: np.ndarray) -> np.ndarray:
    """The lesser tail of `right` plus as much of the other tail as is no likelier than it."""
    above, below = binom.sf(right - 1, images, share), binom.cdf(right, images, share)
    up = above + binom.cdf(binom.ppf(above, images, share) - 1, images, share)
    down = below + binom.sf(binom.ppf(1 - below, images, share), images, share)
    return np.minimum(np.minimum(up, down), 1)


# ---- several runs


@dataclass(frozen=True)
class Spread:
    """Variance of a mean over runs, and the degrees of freedom it is known with."""

    variance: float
    df: float

    def quantile(self, confidence: float) -> float:
        """Student's."""
        return (
            float(t.ppf((1 + confidence) / 2, self.df))
            if np.isfinite(self.df)
            else float(norm.ppf((1 + confidence) / 2))
        )


def likeness(cells: Sequence[np.ndarray]) -> float:
    """Correlation (0..1) of two runs' answers to one photo, pooled over cells (runs, N) within which photos are alike; 1 if
    unknown."""
    within = total = 0.0
    for cell in cells:
        asked = (~np.isnan(cell)).sum(0)
        cell = cell[:, asked > 1]
        if cell.shape[1] < 2:
            continue
        within += np.nanvar(cell, axis=0, ddof=1).sum()
        photos = cell.shape[1]
        total += np.nanvar(cell) * photos * photos / (photos - 1)
    return float(np.clip(1 - within / total, 0, 1)) if total > 0 else 1.0


def sharing(asked: np.ndarray, alike: float, units: Sequence | None = None) -> tuple[float, float]:
    """What drawing photos alone does, in units of one answer's variance: the variance of the mean over runs, and of units about it.

    Args:
        asked: whether a run tested a photo, bool (runs, N). alike: correlation of two runs on a photo. units: see the module.
    """
    photos = asked.sum(1).astype(float)
    both = (asked.astype(float) @ asked.T) / np.outer(photos, photos)
    both *= np.where(np.eye(len(asked)) > 0, 1, alike)
    names = list(range(len(asked))) if units is None else list(units)
    member = np.array([[unit == name for unit in names] for name in dict.fromkeys(names)], float)
    member /= member.sum(1, keepdims=True)
    between = member @ both @ member.T
    count = len(between)
    off = (between.sum() - np.trace(between)) / max(count * (count - 1), 1)
    return float(both.mean()), float(np.trace(between) / count - off)


def unit_means(values: np.ndarray, units: Sequence | None) -> np.ndarray:
    """Means of runs' values (runs,) by unit."""
    names = np.asarray(list(range(len(values))) if units is None else list(units))
    return np.array([values[names == name].mean() for name in dict.fromkeys(names.tolist())])


def spread_of(
    values: np.ndarray, photos: float, noise: float, units: Sequence | None = None, prior: float | None = None
) -> Spread:
    """Variance of the mean of runs' values over photos and runs, with Hillis' degrees of freedom (Hillis 2007).

    Args:
        values: by run, (runs,); of a difference between settings whose runs were trained apart those of each, (2, runs): their
            variances add, and are better known than that of the differences (Welch 1947).
        photos: variance of the mean from drawing photos alone. noise: what drawing photos alone makes units differ by.
        prior: variance between runs as other groups have it; None to ask this group alone.
    """
    means = [unit_means(side, units) for side in np.atleast_2d(values)]
    if len(means[0]) < 2:
        return Spread(photos, np.inf)
    raws = np.array([side.var(ddof=1) for side in means])
    raw, known, count = raws.sum(), len(means[0]) - 1.0, len(means[0])
    if raw > 0:
        known *= raw**2 / (raws**2).sum()
    if prior is not None:
        raw = (BORROWED * (noise + prior) + known * raw) / (BORROWED + known)
        known += BORROWED
    # The difference of two estimates of which one rests on a few runs: half of what runs differ by is kept, whatever photos
    # explain.
    variance = photos + max(raw - noise, raw / 2) / count
    df = known * (variance / (raw / count)) ** 2 if raw > 0 else np.inf
    return Spread(variance, df)


def share_interval(
    right: np.ndarray,
    confidence: float,
    alike: float = 1.0,
    units: Sequence | None = None,
    between: float | None = None,
) -> Interval:
    """Interval of a share: Blaker's for one run. For several, Clopper and Pearson's at the effective number of photos, which
    Student's quantile makes smaller (Korn and Graubard 1998).

    Args:
        right: 0 or 1, (runs, N). alike: see `likeness`; take it from more photos than a small group has. between: variance
            between runs of the share's logit as other groups have it.
    """
    asked = ~np.isnan(right)
    if len(right) == 1:
        return blaker(int(np.nansum(right)), int(asked.sum()), confidence)
    by_run = np.nanmean(right, axis=1)
    share = float(by_run.mean())
    mean, noise = sharing(asked, alike, units)
    size = 1 / mean
    one = share * (1 - share)
    if one > 0:
        prior = None if between is None else between * one**2
        spread = spread_of(by_run, one * mean, one * noise, units, prior)
        size = one / spread.variance * (norm.ppf((1 + confidence) / 2) / spread.quantile(confidence)) ** 2
    tail, good = (1 - confidence) / 2, size * share
    low = 0.0 if share == 0 else beta.ppf(tail, good, size - good + 1)
    high = 1.0 if share == 1 else beta.ppf(1 - tail, good + 1, size - good)
    return float(low), float(high)


# ---- areas under ROC curves


def placements(score: np.ndarray, positive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each positive the share of negatives below it, of each negative the share of positives above it, ties half; NaN elsewhere.

    Args:
        score: (runs, N), NaN where not tested. positive: bool (N,).
    """
    above, below = np.full(score.shape, np.nan), np.full(score.shape, np.nan)
    for r, asked in enumerate(~np.isnan(score)):
        ups, downs = asked & positive, asked & ~positive
        rank = np.empty(len(positive))
        rank[asked] = rankdata(score[r, asked])
        above[r, ups] = (rank[ups] - rankdata(score[r, ups])) / downs.sum()
        below[r, downs] = 1 - (rank[downs] - rankdata(score[r, downs])) / ups.sum()
    return above, below


def auc_influence(score: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """What each photo adds to each run's AUC, (runs, N), mean zero (DeLong 1988)."""
    above, below = placements(score, positive)
    asked = (~np.isnan(score)).sum(1, keepdims=True)
    parts = [(part - np.nanmean(above, axis=1, keepdims=True)) for part in (above, below)]
    scaled = [part * asked / (~np.isnan(part)).sum(1, keepdims=True) for part in parts]
    return np.where(np.isnan(scaled[0]), scaled[1], scaled[0])


def hanley(auc, positives: float, negatives: float):
    """Variance of an AUC (Hanley and McNeil 1982, with the mean of both counts in both terms: Newcombe 2006, method 5)."""
    middle = (positives + negatives) / 2 - 1
    return auc * (1 - auc) * (1 + middle * (1 - auc) / (2 - auc) + middle * auc / (1 + auc)) / (positives * negatives)


def auc_interval(score: np.ndarray, positive: np.ndarray, confidence: float, units: Sequence | None = None) -> Interval:
    """Score interval of an AUC: all areas from which the measured one is no further than their own standard error allows.

    The standard error is Hanley and McNeil's, times a factor by which DeLong's differs from it; the fewer photos of the rarer
    class, the nearer the factor is kept to 1. Never of zero width, also where every positive stands above every negative.

    Args:
        score: (runs, N), NaN where not tested. positive: bool (N,); every run has tested both classes.
    """
    asked = ~np.isnan(score)
    ups, downs = placements(score, positive)
    by_run = np.nanmean(ups, axis=1)
    auc = float(by_run.mean())
    m, n = asked[:, positive].sum(1).mean(), asked[:, ~positive].sum(1).mean()
    trust = min(m, n) - 1
    expected = hanley(auc, m, n)
    measured = sum(np.nanvar(part, axis=1, ddof=1).mean() / k for part, k in ((ups, m), (downs, n)) if k > 1)
    factor = (TRUST + trust * measured / expected) / (TRUST + trust) if expected > 0 else 1.0
    spread = Spread(factor * expected, np.inf)
    if len(score) > 1:
        within = [np.nanvar(part[:, (~np.isnan(part)).sum(0) > 1], axis=0, ddof=1) for part in (ups, downs)]
        apart = sum(part.mean() / k for part, k in zip(within, (m, n), strict=True) if len(part))
        alike = float(np.clip(1 - apart / measured, 0, 1)) if measured > 0 else 1.0
        mean, noise = (part * asked.sum(1).mean() for part in sharing(asked, alike, units))
        spread = spread_of(by_run, mean * factor * expected, noise * measured, units)
        factor *= mean
    quantile = Spread(0, min(spread.df, 2 * (TRUST + trust))).quantile(confidence)
    between = max(spread.variance - factor * expected, 0)
    grid = np.linspace(0, 1, 2001)
    scale = (grid * (1 - grid) / (auc * (1 - auc))) ** 2 if 0 < auc < 1 else 1.0
    inside = np.abs(grid - auc) <= quantile * np.sqrt(factor * hanley(grid, m, n) + between * scale) + 1e-9
    return float(grid[inside][0]), float(grid[inside][-1])


# ---- sums, differences and other smooth figures


@dataclass(frozen=True)
class Estimated:
    """An interval, and the two-sided p-value of zero that belongs to it."""

    low: float
    high: float
    p: float


def _estimated(centre: float, spread: Spread, df: float, confidence: float) -> Estimated:
    spread = Spread(spread.variance, min(spread.df, df))
    error = np.sqrt(spread.variance)
    half = spread.quantile(confidence) * error
    p = float(2 * t.sf(abs(centre) / error, spread.df)) if error > 0 else float(centre == 0)
    return Estimated(centre - half, centre + half, p)


def strata_interval(
    strata: Sequence[np.ndarray],
    weights: Sequence[float],
    bounds: tuple[float, float],
    confidence: float,
    units: Sequence | None = None,
    values: np.ndarray | None = None,
    alike: float = 1.0,
) -> Estimated:
    """Interval of a weighted sum of strata's means.

    Each stratum gets one more photo at either bound: Agresti and Caffo's (2000) interval for shares, Bonett and Price's (2012)
    for paired differences of shares; so it has a width also where all answers are the same. The mean of several runs' answers
    to one photo is as much nearer as runs are unlike.

    Args:
        strata: answers (runs, N) within bounds. weights: one per stratum. bounds: of one answer. values: see `spread_of`; by
            default the sum's own. alike: correlation of two runs on one photo.
    """
    centre = photos = noise = 0.0
    by_run = np.zeros(len(strata[0]))
    for answers, weight in zip(strata, weights, strict=True):
        asked = ~np.isnan(answers)
        n, tested = asked.sum(1).mean(), int(asked.any(0).sum())
        reach = np.sqrt(sharing(asked, alike, units)[0] * tested) * np.array([-0.5, 0.5]) * np.ptp(bounds)
        padded = np.append(np.nanmean(answers[:, asked.any(0)], axis=0), np.mean(bounds) + reach)
        centre += weight * (np.nanmean(answers) * n + sum(bounds)) / (n + 2)
        by_run += weight * np.nanmean(answers, axis=1)
        photos += weight**2 * padded.var(ddof=1) / (tested + 2)
        noise += weight**2 * _apart(answers) / n
    limit = min(answers.shape[1] for answers in strata) + 1
    spread = spread_of(by_run if values is None else values, photos, noise, units)
    found = _estimated(centre, spread, limit, confidence)
    ends = sorted(sum(weights) * bound for bound in bounds)
    return Estimated(*np.clip([found.low, found.high], *ends).tolist(), found.p)


def _apart(answers: np.ndarray) -> float:
    """The variance of one answer that two runs do not share: all of it on photos that only one tests."""
    asked = ~np.isnan(answers)
    whole = np.nanvar(answers, axis=1).mean()
    twice = answers[:, asked.sum(0) > 1]
    if not twice.shape[1]:
        return float(whole)
    both = asked.astype(float) @ asked.T
    overlap = (both.sum() - np.trace(both)) / (max(len(both) - 1, 1) * np.trace(both))
    within = np.nanvar(twice, axis=0, ddof=1).mean()
    return float(within + (1 - overlap) * max(whole - within, 0))


def smooth_interval(
    values: np.ndarray, influence: np.ndarray, confidence: float, units: Sequence | None = None, df: float | None = None
) -> Estimated:
    """Interval of any smooth figure by what each photo adds to it (infinitesimal jackknife).

    Args:
        values: by run, or of two settings (2, runs) of which the second is taken from the first, see `spread_of`.
        influence: (runs, N), mean zero: a run's figure is to first order the mean of these above its true value.
        df: upper limit of the degrees of freedom; by default photos less one.
    """
    asked = ~np.isnan(influence)
    n, tested = asked.sum(1).mean(), asked.any(0)
    photo = np.nansum(influence, axis=0)[tested] * tested.sum() / asked.sum()
    if len(photo) < 2:  # one photo has no variance
        return Estimated(np.nan, np.nan, np.nan)
    spread = spread_of(values, photo.var(ddof=1) / tested.sum(), _apart(influence) / n, units)
    centre = values.mean() if values.ndim == 1 else values[0].mean() - values[1].mean()
    return _estimated(float(centre), spread, n - 1 if df is None else df, confidence)


def within_bounds(interval: Estimated, value: float, photos: int, confidence: float) -> Interval:
    """An interval of a figure between 0 and 1 carried over to the logit scale; at 0 or 1 that of as many photos, all of them
    alike."""
    if value in (0.0, 1.0):
        return blaker(int(value) * photos, photos, confidence)
    half = (interval.high - interval.low) / 2 / (value * (1 - value))
    low, high = 1 / (1 + np.exp(np.array([half, -half]) - np.log(value / (1 - value))))
    return float(low), float(high)
