"""Intervals of figures that compare tones, by inverting a test; and what chance alone gives.

Such a figure takes the least and the greatest of several rates. Of rates that are equal the least one measured lies below the
truth and the greatest above it: the measured figure is biased, and resampling the measured rates doubles the bias. Here each
value that the figure may have is tested instead. The likeliest rates with exactly that value are found (profile likelihood over
all other rates), test sets are drawn with these rates, and the value is kept while the measured figure is no outlier among
theirs. The interval is what is kept.

What it is about: see `cgddi.core.intervals`. Photos are drawn within tone and class, their numbers as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, reduce

import numpy as np
from scipy.special import gammaln, ndtr, ndtri
from scipy.stats import chi2

from cgddi.core.disparity import EQUAL, VALUE, Family, Figure, Value, figures_for, measured_value, value_of

RATES, VALUES = 40, 16
"""Points of the grid of rates, and tested values of a figure."""
REACH = 3.6
"""Standard errors around the measured rates that the grid covers, and beyond which a value is not worth a test."""
POOLED = 1.0
"""Photos' worth of the tones' mean rate that each tone's rate is pooled with, so that five of five is not a rate of 1."""


@dataclass(frozen=True)
class Disparity:
    """The interval of a figure, its median-unbiased value, and what tones with equal rates would show by chance.

    Attributes:
        low, middle, high: the interval at the confidence asked for, and the value of which the measured one is the median.
        chance, chance_low, chance_high: mean and central range, at the same confidence, over test sets of these counts and equal
            tones.
    """

    low: float
    middle: float
    high: float
    chance: float
    chance_low: float
    chance_high: float


# ---- the likeliest rates of each value


@dataclass(frozen=True)
class Profile:
    """Values of a figure, and the deviance (J,) and rates (J, F, G) of the likeliest rates that have them."""

    value: np.ndarray
    deviance: np.ndarray
    rates: np.ndarray


@dataclass(frozen=True)
class Grid:
    """Least and greatest rates (K,), and the deviance and all rates (K, 1, G) of the likeliest ones between them."""

    low: np.ndarray
    high: np.ndarray
    deviance: np.ndarray
    rates: np.ndarray


def pooled_rate(family: Family) -> float:
    """The tones' rate if it is one."""
    return float(((family.rate.mean(0) * family.size).sum() + 0.5) / (family.size.sum() + 1))


def rate_grid(family: Family) -> Grid:
    """All pairs of a least and a greatest rate within reach; the other tones' rates lie between, as near to the measured ones as
    may be."""
    runs, equal = len(family.rate), pooled_rate(family)
    between = equal * (1 - equal) * (family.common + family.doubt) / runs
    size = 1 / ((family.alike + (1 - family.alike) / runs) / family.size + between)
    good = family.rate.mean(0) * size + POOLED * equal
    bad = size + POOLED - good
    middle, reach = np.arcsin(np.sqrt(good / (good + bad))), REACH / 2 / np.sqrt(size)
    ends = max(0.02, (middle - reach).min()), min(np.pi / 2 - 0.02, (middle + reach).max())
    # The likeliest equal rate is a point of the grid, so that equal tones are tested at their best.
    grid = np.sort(np.append(np.linspace(*ends, RATES), np.arcsin(np.sqrt(good.sum() / (good + bad).sum()))))
    p, groups = np.sin(grid) ** 2, range(len(good))
    best = good * np.log(good / (good + bad)) + bad * np.log(bad / (good + bad))
    # Log-likelihood of each tone's rate less its largest, (G, RATES + 1).
    loss = good[:, None] * np.log(p) + bad[:, None] * np.log1p(-p) - best[:, None]
    low, high = np.triu_indices(len(grid))
    # A tone that is neither the least nor the greatest is where it was measured, or at the end that keeps it from there.
    inner = np.where(p[low] > (good / (good + bad))[:, None], loss[:, low], 0.0)
    inner = np.where(p[high] < (good / (good + bad))[:, None], loss[:, high], inner)
    pairs = [(a, b) for a in groups for b in groups if a != b]
    options = np.stack([loss[a, low] - inner[a] + loss[b, high] - inner[b] for a, b in pairs])
    pair, place = options.argmax(0), np.arange(len(low))
    rates = np.clip((good / (good + bad))[:, None], p[low], p[high])
    first, second = np.array(pairs)[pair].T
    rates[first, place], rates[second, place] = p[low], p[high]
    return Grid(p[low], p[high], -2 * (inner.sum(0) + options[pair, place]), rates.T[:, None])


def family_profile(grid: Grid, value: Value, bins: int) -> Profile:
    """Profile of one family's value."""
    return _likeliest(value(grid.low, grid.high), grid.deviance, grid.rates, bins)


def _likeliest(value: np.ndarray, deviance: np.ndarray, rates: np.ndarray, bins: int) -> Profile:
    """Of each bin of values the likeliest; the least and the greatest value have bins of their own, and far from likely ones
    none."""
    keep = deviance <= deviance.min() + REACH**2
    value, deviance, rates = value[keep], deviance[keep], rates[keep]
    place = 1 + np.round((value - value.min()) / max(np.ptp(value), 1e-12) * (bins - 3)).astype(int)
    place[value == value.min()], place[value == value.max()] = 0, bins - 1
    order = np.lexsort((deviance, place))
    first = order[np.r_[True, np.diff(place[order]) > 0]]
    first = first[np.argsort(value[first], kind="stable")]
    return Profile(value[first], deviance[first], rates[first])


def joint_profile(profiles: Sequence[Profile], join: str, bins: int) -> Profile:
    """Profile of the mean or the greatest of several families' values."""

    def both(a: Profile, b: Profile) -> Profile:
        i, j = (part.ravel() for part in np.indices((len(a.value), len(b.value))))
        value = a.value[i] + b.value[j] if join == "mean" else np.maximum(a.value[i], b.value[j])
        return _likeliest(value, a.deviance[i] + b.deviance[j], np.concatenate([a.rates[i], b.rates[j]], 1), bins)

    found = reduce(both, profiles)
    return replace(found, value=found.value / len(profiles)) if join == "mean" else found


# ---- test sets drawn with these rates


@lru_cache(maxsize=16)
def latents(count: int, runs: int, settings: int, families: int, groups: int, seed: int) -> tuple[np.ndarray, ...]:
    """Normal draws that all cases share, so that cases differ by their rates alone: what a photo gives all runs (F, G, 1,
    count), what it gives each run (F, G, runs, count), a run's common (F, 1, runs, count) and own effects, and factors (count,)
    by which the mean of a few runs' effects may be further out than their measured variance says (Student's t)."""
    rng = np.random.default_rng(seed)
    even = (np.arange(count) + 0.5) / count

    def spread(*shape: int) -> np.ndarray:
        return ndtri(rng.permuted(np.broadcast_to(even, (*shape, count)), axis=-1))

    def doubt(df: int) -> np.ndarray:
        return np.sqrt(df / rng.permutation(chi2.ppf(even, df))) if df else np.ones(count)

    shapes = ((families, groups, 1), (families, groups, runs), (families, 1, runs), (families, groups, runs))
    known = settings * (runs - 1)
    return *(spread(*shape) for shape in shapes), doubt(known), doubt(known * (groups - 1))


def draw(families: Sequence[Family], rates: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rates of drawn runs, true and as a test measures them, each (F, G, J, runs, count), true of one run (F, G, J, 1, 1).

    Args:
        families: how many photos and runs, and how these differ. rates: the mean over runs of each case, (J, F, G).
    """
    runs = len(families[0].rate)
    size = np.maximum(np.round([family.size for family in families]), 1).astype(int)
    photo, answer, common, own, common_doubt, own_doubt = latents(count, runs, families[0].settings, *size.shape, seed)
    if runs > 1:
        alike = np.array([family.alike for family in families])[:, None, None, None]
        photo = np.sqrt(alike) * photo + np.sqrt(1 - alike) * answer
    place = ndtr(photo)
    measured = np.empty((*size.shape, len(rates), *place.shape[2:]))
    for f, g in np.ndindex(size.shape):
        at = place[f, g].ravel()
        for j, cdf in enumerate(_binomial(size[f, g], rates[:, f, g])):
            measured[f, g, j] = (cdf.searchsorted(at) / size[f, g]).reshape(place.shape[2:])
    measured, true = np.minimum(measured, 1), rates.transpose(1, 2, 0)[..., None, None]
    if runs == 1:
        return true, measured
    names = ("common", "own", "doubt")
    deviation = np.sqrt([[getattr(family, name) for name in names] for family in families])[..., None, None, None]
    mean_common, mean_own = common.mean(2, keepdims=True), own.mean(2, keepdims=True)
    further = (common_doubt - 1) * deviation[:, 0] * mean_common
    further = further + (own_doubt * deviation[:, 2] - deviation[:, 1]) * mean_own
    common, own = deviation[:, 0] * common, deviation[:, 1] * own
    # To first order in the logit, so that a run's mean effect on a rate is none.
    slope = true * (1 - true)
    effect, further = slope * (common + own)[:, :, None], slope * further[:, :, None]
    return np.clip(true + effect, 1e-6, 1 - 1e-6), np.clip(measured + effect + further, 0, 1)


def _binomial(size: int, rates: np.ndarray) -> np.ndarray:
    """Distribution functions of binomial counts, (J, size + 1)."""
    k = np.arange(size + 1)
    ways = gammaln(size + 1) - gammaln(k + 1) - gammaln(size - k + 1)
    return np.cumsum(np.exp(ways + k * np.log(rates[:, None]) + (size - k) * np.log1p(-rates[:, None])), 1)


# ---- the interval


def invert(
    figure: Figure, families: Sequence[Family], grids: Sequence[Grid], confidence: float, count: int, seed: int
) -> tuple[float, float, float]:
    """Lower limit, median-unbiased value and upper limit of a figure.

    Args:
        families, grids: of the figure. count: test sets drawn for each tested value. seed: of the draws.
    """
    value = VALUE[figure.value]
    bins = VALUES if len(families) == 1 else 2 * VALUES
    profile = joint_profile([family_profile(grid, value, bins) for grid in grids], figure.join, VALUES)
    true, drawn = draw(families, profile.rates, count, seed)
    tested, found = value_of(figure, true).mean((1, 2)), value_of(figure, drawn).mean(1)
    measured = measured_value(figure, families)
    order = np.argsort(tested, kind="stable")
    tested, found = tested[order], found[order]
    tail, equal = (1 - confidence) / 2, EQUAL.get(figure.value)

    def limit(level: float, value: float = measured) -> float:
        """The tested value among whose test sets `value` is the quantile `level`."""
        less, more = (found < value - 1e-9).sum(1), (found > value + 1e-9).sum(1)
        below = 0.5 + (less - more) / np.maximum(np.isfinite(found).sum(1), 1) / 2
        # It falls with the tested value, but for the noise of the draws.
        return float(np.interp(-level, -np.minimum.accumulate(below), tested))

    # Fairer than equal tones are half of the time: that tells no more against unequal tones than their median would.
    # Equal tones kept: then so is that they are equal in every run, of which several runs tell little.
    if equal == 1:
        low, high = limit(1 - tail, min(measured, np.nanmedian(found[-1]))), limit(tail)
        high = 1.0 if high >= tested[-1] else high
    elif equal == 0:
        low, high = limit(1 - tail), limit(tail, max(measured, np.nanmedian(found[0])))
        low = 0.0 if low <= tested[0] else low
    else:
        low, high = limit(1 - tail), limit(tail)
    return low, limit(0.5), high


def by_chance(
    figure: Figure, families: Sequence[Family], confidence: float, count: int, seed: int
) -> tuple[float, float, float]:
    """Mean and central range of a figure over test sets of these counts if all tones had the mean of their rates, in every run."""
    same = [replace(family, common=0.0, own=0.0, doubt=0.0) for family in families]
    rates = np.array([[[pooled_rate(family)] * family.rate.shape[1] for family in families]])
    found = value_of(figure, draw(same, rates, count, seed)[1]).mean(1)[0]
    found = found[np.isfinite(found)]
    if not len(found):
        return (float("nan"),) * 3
    tail = (1 - confidence) / 2
    return float(found.mean()), *map(float, np.quantile(found, [tail, 1 - tail]))


def disparities(
    families: dict[str, Family], classes: int, confidence: float, count: int, seed: int
) -> dict[str, Disparity | None]:
    """Every figure that compares tones; None where it does not exist. An interval reaches to the measured figure where that is
    biased out of it.

    Args:
        families: see `families_of`. classes: their number. confidence, count, seed: see `invert`.
    """
    found: dict[str, Disparity | None] = {}
    grids = {name: rate_grid(family) for name, family in families.items()}
    for name, figure in figures_for(classes).items():
        members = [families[family] for family in figure.families if family in families]
        if len(members) < len(figure.families) or not np.isfinite(measured_value(figure, members)):
            found[name] = None
            continue
        chance = by_chance(figure, members, confidence, count, seed)
        tested = invert(figure, members, [grids[family] for family in figure.families], confidence, count, seed)
        low, middle, high = tested
        value = measured_value(figure, members)
        found[name] = Disparity(min(low, value), middle, max(high, value), *chance)
    return found
