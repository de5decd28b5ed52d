"""Figures that compare tones: rates, likeliest rates, drawn test sets and chance, against enumeration and scipy's optimizer."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from cgddi.core.disparity import VALUE, Family, Figure, families_of, figures_for, measured_value
from cgddi.core.inversion import (
    by_chance,
    disparities,
    draw,
    family_profile,
    invert,
    joint_profile,
    pooled_rate,
    rate_grid,
)
from cgddi.core.metrics import run_metrics
from scipy.optimize import minimize
from scipy.stats import binom

SIZE = np.array([5.0, 10.0, 11.0])


def answers(seed: int, classes: int = 2, runs: int = 1, n: int = 120):
    rng = np.random.default_rng(seed)
    labels, tones = rng.integers(0, classes, n), rng.integers(0, 3, n)
    predicted = np.where(rng.random((runs, n)) < 0.7, labels, rng.integers(0, classes, (runs, n)))
    return labels, tones, predicted.astype(float)


@pytest.mark.parametrize("classes", [2, 3])
def test_families_give_the_figures_of_the_tables(classes):
    labels, tones, predicted = answers(0, classes, runs=3)
    families = families_of(labels, tones, predicted, classes, 3)
    found = disparities(families, classes, 0.95, 100, 0)
    probability = np.full((len(labels), classes), 1 / classes)
    runs = [run_metrics(labels, p.astype(int), probability, tones, np.ones((1, len(labels)))) for p in predicted]
    for name, figure in figures_for(classes).items():
        measured = measured_value(figure, [families[family] for family in figure.families])
        expected = np.mean([run[name, "all"][0] for run in runs])
        assert measured == pytest.approx(expected), name
        assert found[name].low <= expected <= found[name].high, name


def test_a_tone_without_photos_makes_figures_undefined_never_imputed():
    labels, tones, predicted = answers(1)
    kept = tones != 2
    families = families_of(labels[kept], tones[kept], predicted[:, kept], 2, 3)
    assert set(disparities(families, 2, 0.95, 100, 0).values()) == {None}
    kept = ~((tones == 1) & (labels == 1))
    found = disparities(families_of(labels[kept], tones[kept], predicted[:, kept], 2, 3), 2, 0.95, 100, 0)
    assert found["eom"] is None and found["equal_opportunity_difference"] is None and found["pqd"] is not None
    never = disparities(families_of(labels, tones, np.zeros_like(predicted), 2, 3), 2, 0.95, 100, 0)
    assert never["dpm"] is None and never["eom"] is None, "0/0"


def test_the_likeliest_rates_of_a_value_are_those_an_optimizer_finds():
    family = Family(np.array([[0.6, 0.8, 10 / 11]]), SIZE, 1.0)
    equal = pooled_rate(family)
    good = family.rate[0] * SIZE + equal
    profile = family_profile(rate_grid(family), VALUE["ratio"], 16)

    def deviance(rates):
        p = np.asarray(rates)
        best = good / (SIZE + 1)
        fit = good * np.log(p / best) + (SIZE + 1 - good) * np.log((1 - p) / (1 - best))
        return -2 * fit.sum()

    for value, found, rates in zip(profile.value[2:14:3], profile.deviance[2:14:3], profile.rates[2:14:3], strict=True):
        assert rates.min() / rates.max() == pytest.approx(value) and deviance(rates[0]) == pytest.approx(found)
        ends = []
        for i, j in product(range(3), repeat=2):
            if i != j:
                fit = minimize(
                    lambda x, v=value, i=i, j=j: deviance(with_ends(x[0], v, i, j, good)), [0.8], bounds=[(0.05, 0.999)]
                )
                ends.append(fit.fun)
        assert found <= min(ends) + 0.25, "to the grid's width"
        assert found >= min(ends) - 1e-6
    assert profile.value[-1] == 1 and np.ptp(profile.rates[-1]) < 1e-12, "equal tones are tested"


def with_ends(top, value, i, j, good):
    """The rates nearest to the measured ones of which j's is the greatest and i's the least."""
    rates = np.clip(good / (SIZE + 1), top * value, top)
    rates[i], rates[j] = top * value, top
    return rates


def test_joint_profiles_add_deviances():
    family = Family(np.array([[0.6, 0.8, 0.9]]), SIZE, 1.0)
    profile = family_profile(rate_grid(family), VALUE["spread"], 12)
    both = joint_profile([profile, profile], "max", 12)
    for value, deviance, rates in zip(both.value, both.deviance, both.rates, strict=True):
        spreads = rates.max(1) - rates.min(1)
        assert spreads.max() == pytest.approx(value)
        parts = [profile.deviance[np.abs(profile.value - spread).argmin()] for spread in spreads]
        assert deviance == pytest.approx(sum(parts))


def test_drawn_test_sets_have_the_binomial_distribution():
    family = Family(np.array([[0.6, 0.8, 0.9]]), SIZE, 1.0)
    rates = np.array([[[0.6, 0.8, 0.9]]])
    true, measured = draw([family], rates, 4000, 0)
    assert true.shape == (1, 3, 1, 1, 1) and measured.shape == (1, 3, 1, 1, 4000)
    for g, (n, p) in enumerate(zip(SIZE.astype(int), rates[0, 0], strict=True)):
        share = np.bincount(np.round(measured[0, g].ravel() * n).astype(int), minlength=n + 1) / 4000
        assert share == pytest.approx(binom.pmf(np.arange(n + 1), n, p), abs=2e-3)
    assert abs(np.corrcoef(measured[0, :, 0, 0])[0, 1]) < 0.05


def test_drawn_runs_differ_and_agree_as_told():
    family = Family(np.full((6, 3), 0.8), np.array([200.0] * 3), 0.5, common=0.04, own=0.09, doubt=0.09)
    true, measured = draw([family], np.full((1, 1, 3), 0.8), 4000, 1)
    slope = 0.8 * 0.2
    assert true[0, 0, 0].var() == pytest.approx(slope**2 * 0.13, rel=0.05)
    assert np.cov(true[0, 0, 0].ravel(), true[0, 1, 0].ravel())[0, 1] == pytest.approx(slope**2 * 0.04, rel=0.1)
    assert true.mean() == pytest.approx(0.8, abs=1e-3)
    calm = Family(np.full((6, 3), 0.8), np.array([200.0] * 3), 0.5)
    _, measured = draw([calm], np.full((1, 1, 3), 0.8), 4000, 1)
    assert np.corrcoef(measured[0, 0, 0])[0, 1] == pytest.approx(0.5, abs=0.03)
    assert measured[0, 0, 0].mean(0).var() == pytest.approx(0.16 / 200 * (0.5 + 0.5 / 6), rel=0.06)


def test_chance_is_what_enumeration_of_all_test_sets_gives():
    sizes, rate = (4, 5, 6), 0.75
    right = np.array([[3, 3.75, 4.5]]) / np.array(sizes)
    family = Family(right, np.array(sizes, float), 1.0)
    rate = pooled_rate(family)
    values, chances = [], []
    for counts in product(*(range(n + 1) for n in sizes)):
        shares = [k / n for k, n in zip(counts, sizes, strict=True)]
        if max(shares) > 0:
            values.append(min(shares) / max(shares))
            chances.append(np.prod([binom.pmf(k, n, rate) for k, n in zip(counts, sizes, strict=True)]))
    values, chances = np.array(values), np.array(chances)
    order = np.argsort(values)
    below = np.cumsum(chances[order])
    mean, low, high = by_chance(Figure(("recall 1",), "ratio"), [family], 0.9, 4000, 0)
    assert mean == pytest.approx((values * chances).sum(), abs=0.01)
    assert low == pytest.approx(values[order][np.searchsorted(below, 0.05)], abs=0.05)
    assert high == pytest.approx(values[order][np.searchsorted(below, 0.95)], abs=0.05)


def test_an_interval_narrows_with_photos_reaches_equality_and_is_unbiased_in_the_middle():
    figure = Figure(("recall 1",), "ratio")
    widths = []
    for scale in (1, 4, 16):
        family = Family(np.array([[0.6, 0.8, 0.8]]), np.array([25.0] * 3) * scale, 1.0)
        low, middle, high = invert(figure, [family], [rate_grid(family)], 0.95, 1000, 0)
        widths.append(high - low)
        assert low < middle < high and middle > 0.75 - 0.02, "the measured 0.75 is below what it measures"
    assert widths[0] > widths[1] > widths[2]
    same = Family(np.array([[0.8, 0.8, 0.8]]), np.array([25.0] * 3), 1.0)
    low, _, high = invert(figure, [same], [rate_grid(same)], 0.95, 1000, 0)
    assert high == 1 and low < 0.9
    spread = Figure(("recall 1",), "spread")
    low, _, high = invert(spread, [same], [rate_grid(same)], 0.95, 1000, 0)
    assert low == 0 and high > 0.1
