"""What an interval's width is held against in `coverage`: exact tests turned into intervals.

Each is told more than an interval can know (how scores are distributed, how much runs differ), or is the largest p-value over all
that it is not told.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from cgddi.core import disparity, inversion
from cgddi.core.answers import Answers
from scipy.special import gammaln, ndtri, xlogy
from scipy.stats import beta, chi2, rankdata

from benchmarks._population import Population, draw_scores, measured, run_truth

CONFIDENCE, TAIL = 0.95, 0.025
DRAWS = 200
"""Test sets per tested value."""
Curves = tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Of estimates and tested values: where the former is the upper end of what the latter gives, and where it is the lower end."""


def between(curves: Curves, estimate: float) -> float:
    """Width of the range of tested values that an estimate does not contradict."""
    (greatest, low), (least, high) = curves
    # An estimate at the end of many tested values, as 1, contradicts none of them.
    return float(np.interp(estimate + 1e-9, least, high) - np.interp(estimate - 1e-9, greatest, low))


def _curves(tested: np.ndarray, drawn: np.ndarray, limits: tuple[float, float]) -> Curves:
    """Curves from estimates (tested, draws) of a figure within limits."""
    least, greatest = np.quantile(drawn, [TAIL, 1 - TAIL], axis=1)
    order = np.argsort(tested, kind="stable")
    tested = np.r_[limits[0], tested[order], limits[1]]
    least, greatest = (np.maximum.accumulate(np.r_[limits[0], end[order], limits[1]]) for end in (least, greatest))
    return (greatest, tested), (least, tested)


# ---- one run


def clopper_pearson(right: int, images: int) -> tuple[float, float]:
    """Exact interval of a share."""
    low = 0.0 if right == 0 else beta.ppf(TAIL, right, images - right + 1)
    return float(low), 1.0 if right == images else float(beta.ppf(1 - TAIL, right + 1, images - right))


@cache
def exact_auc(m: int, n: int) -> Curves:
    """Of the AUC of m and n binormal scores."""
    rng = np.random.default_rng(0)
    up, down = rng.normal(size=(1500, m)), rng.normal(size=(1500, n))
    true = np.linspace(0.4, 0.999, 60)
    ranks = (rankdata(np.concatenate([up + np.sqrt(2) * ndtri(area), down], 1), axis=1)[:, :m].sum(1) for area in true)
    return _curves(true, (np.array(list(ranks)) - m * (m + 1) / 2) / (m * n), (0.0, 1.0))


def exact_paired(b: int, c: int, n: int) -> tuple[float, float]:
    """Interval of a difference of two shares of the same n photos, of which only the first has b right and only the second c: all
    differences whose largest p-value over how often both disagree, by Tango's score (1998) over all tables, is not below the
    level (Hsueh et al. 2001)."""
    found = []
    one, other = (part.ravel() for part in np.indices((n + 1, n + 1)))
    one, other = one[one + other <= n], other[one + other <= n]
    ways = gammaln(n + 1) - gammaln(one + 1) - gammaln(other + 1) - gammaln(n - one - other + 1)
    reach = 5 * np.sqrt(b + c + 3) / n
    for apart in np.linspace(max((b - c) / n - reach, -0.999), min((b - c) / n + reach, 0.999), 80):
        score, here = _tango(one, other, n, apart), _tango(b, c, n, apart)
        further = np.abs(score) >= abs(here) - 1e-9
        low, high = max(0.0, -apart), (1 - apart) / 2
        p = 0.0
        for share in low + (high - low) * np.linspace(0, 1, 20) ** 2:
            chance = ways + xlogy(one, share + apart) + xlogy(other, share)
            chance = chance + xlogy(n - one - other, np.maximum(1 - 2 * share - apart, 0))
            p = max(p, float(np.exp(chance[further]).sum()))
        if p > 2 * TAIL:
            found.append(apart)
    return min(found), max(found)


def _tango(one, other, n: int, apart: float):
    """Tango's score of tables with `one` and `other` discordant photos, for a difference of shares."""
    b = -one - other + (2 * n - one + other) * apart
    share = (np.sqrt(np.maximum(b * b + 8 * n * other * apart * (1 - apart), 0)) - b) / (4 * n)
    variance = n * (2 * share + apart * (1 - apart))
    return (one - other - n * apart) / np.sqrt(np.maximum(variance, 1e-12))


# ---- several runs


@cache
def told(population: Population, runs: int) -> dict[tuple[str, str, str], Curves]:
    """Of the mean over several runs, for a test that is told everything but how good the classifiers are: how much runs and tones
    differ, what photos share. One regime gets better or worse on all photos alike; of two the first better, the second worse."""
    rng, draws = np.random.default_rng(1), 2 * DRAWS
    tones, labels = population.layout()
    tested, drawn = {}, {}
    for by in np.linspace(-1.6, 1.6, 33):
        sides = [[side.moved(move) for side in population.regimes] for move in (by, by / 2, -by / 2)]
        for kind, both in (("", sides[0]), ("difference", (sides[1][0], sides[2][1]))):
            means = [side.draw_runs(draws * runs, rng).reshape(draws, runs, 3, 2) for side in both]
            scores = draw_scores(means, tones, labels, rng)
            found = [{k: v.mean(1) for k, v in measured(s, tones, labels).items()} for s in scores]
            truth = [
                {k: v.mean() for k, v in run_truth(side.draw_runs(4000, rng), side.counts).items()} for side in both
            ]
            for key in found[0].keys() & truth[0].keys():
                less = kind != ""
                tested.setdefault((kind, *key), []).append(truth[0][key] - less * truth[1][key])
                drawn.setdefault((kind, *key), []).append(found[0][key] - less * found[1][key])
    return {
        cell: _curves(np.array(tested[cell]), np.array(drawn[cell]), (-1.0 if cell[0] else 0.0, 1.0)) for cell in tested
    }


# ---- figures that compare tones


def exact_disparity(answers: Answers, metric: str) -> float:
    """Width of the range of values for which the largest p-value over all rates that have them is not below the level."""
    figure = disparity.figures_for(2)[metric]
    families = [answers.families[name] for name in figure.families]
    value = disparity.VALUE[figure.value]
    grids = [inversion.rate_grid(family) for family in families]
    if len(grids) == 1:
        rates, deviance, tested = grids[0].rates, grids[0].deviance, value(grids[0].low, grids[0].high)
    else:
        profiles = [inversion.family_profile(grid, value, 30) for grid in grids]
        i, j = (part.ravel() for part in np.indices([len(p.value) for p in profiles]))
        rates = np.concatenate([profiles[0].rates[i], profiles[1].rates[j]], 1)
        deviance = profiles[0].deviance[i] + profiles[1].deviance[j]
        tested = disparity.value_of(figure, rates.transpose(1, 2, 0))
    region = deviance <= chi2.ppf(0.999, 3 * len(grids)) + deviance.min()
    rates, tested = rates[region], tested[region]
    drawn = disparity.value_of(figure, inversion.draw(families, rates, DRAWS, 0)[1]).mean(1)
    found = disparity.measured_value(figure, families)
    tail = TAIL - 0.0005
    kept = ((drawn >= found - 1e-9).mean(1) > tail) & ((drawn <= found + 1e-9).mean(1) > tail)
    equal = disparity.EQUAL.get(figure.value)
    fair = (drawn >= found - 1e-9) if equal == 0 else (drawn <= found + 1e-9)
    kept |= (tested == equal) & (fair.mean(1) > tail) if equal is not None else False
    return float(np.ptp(tested[kept])) if kept.any() else 0.0


def exact_disparity_difference(both: tuple[Answers, Answers], metric: str, alike: float) -> float:
    """The same of a difference between two regimes: the largest p-value over the likeliest rates of both that have two values, for
    all pairs of values within a 99.9 % region.

    Args:
        alike: correlation of both regimes' figures, drawn together by their ranks.
    """
    figure = disparity.figures_for(2)[metric]
    rng = np.random.default_rng(0)
    first = rng.normal(size=DRAWS)
    ranks = [
        part.argsort().argsort() for part in (first, alike * first + np.sqrt(1 - alike**2) * rng.normal(size=DRAWS))
    ]
    values, deviances, draws, found = [], [], [], []
    pooled = disparity.pooled(both[0].families, both[1].families)
    for seed, (side, order) in enumerate(zip(pooled, ranks, strict=True)):
        families = [side[name] for name in figure.families]
        value = disparity.VALUE[figure.value]
        profiles = [inversion.family_profile(inversion.rate_grid(family), value, 30) for family in families]
        profile = inversion.joint_profile(profiles, figure.join, 30)
        true, drawn = inversion.draw(families, profile.rates, DRAWS, seed)
        values.append(disparity.value_of(figure, true).mean((1, 2)))
        deviances.append(profile.deviance)
        draws.append(np.sort(disparity.value_of(figure, drawn).mean(1), axis=1)[:, order])
        found.append(disparity.measured_value(figure, families))
    apart, measured_apart = draws[0][:, None] - draws[1][None], found[0] - found[1]
    deviance = deviances[0][:, None] + deviances[1][None]
    inside = deviance <= deviance.min() + chi2.ppf(0.999, 6 * len(figure.families))
    tail = TAIL - 0.0005
    kept = (
        ((apart >= measured_apart - 1e-9).mean(2) > tail) & ((apart <= measured_apart + 1e-9).mean(2) > tail) & inside
    )
    return float(np.ptp((values[0][:, None] - values[1][None])[kept])) if kept.any() else 0.0
