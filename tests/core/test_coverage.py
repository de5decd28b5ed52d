"""Intervals cover what they are about, by simulation: the worst cells of `python -m benchmarks coverage`, few times."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.answers import interval_of
from cgddi.core.images import TONES
from cgddi.stages.fairness.estimates import disparities_of
from scipy.stats import binom

from benchmarks import coverage
from benchmarks._population import POPULATIONS, draw_scores, run_truth

SIZES = {(1, "132 photos, equal tones"): 120, (1, "132 photos, unequal tones"): 120, (5, "132 photos, equal tones"): 50}


@pytest.fixture(scope="module")
def tallies():
    found = {}
    for (runs, name), simulations in SIZES.items():
        population = next(p for p in POPULATIONS if p.name == name)
        found[runs, name] = coverage.simulate(population, runs, simulations, extras=False)
    return found


@pytest.mark.parametrize("case", SIZES)
def test_figures_that_compare_tones_are_covered(tallies, case):
    for cell, covered in tallies[case].covered.items():
        # 93 % or more cover, so that fewer than this happens once in ten thousand.
        assert sum(covered) >= binom.ppf(1e-4, len(covered), 0.93), (cell, np.mean(covered))
        assert np.median(tallies[case].width[cell]) < 0.95, cell


def test_the_plain_bootstrap_misses_eom_of_equal_tones_nearly_always():
    """So the simulation can tell a bad interval from a good one."""
    population = POPULATIONS[0]
    rng = np.random.default_rng(1)
    tones, labels = population.layout()
    missed = []
    for number in range(15):
        means = population.draw_runs(1, rng)
        answers = coverage.answers_of(draw_scores([means], tones, labels, rng)[0], tones, labels)
        truth = run_truth(means, population.counts)["eom", "all"][0]
        low, high = np.quantile(coverage.plain_bootstrap(answers, number)["eom", "all"], [0.025, 0.975])
        missed.append(not low <= truth <= high)
    assert np.mean(missed) > 0.6


@pytest.mark.parametrize("runs", [1, 5])
def test_five_malignant_dark_photos_are_covered(runs):
    population = POPULATIONS[1]
    rng = np.random.default_rng(3)
    tones, labels = population.layout()
    many = run_truth(population.draw_runs(20000, rng), population.counts)
    covered = {"sensitivity": [], "auc": []}
    for _ in range(100):
        means = population.draw_runs(runs, rng)
        truth = run_truth(means, population.counts) if runs == 1 else many
        answers = coverage.answers_of(draw_scores([means], tones, labels, rng)[0], tones, labels)
        for metric, found in covered.items():
            low, high = interval_of(answers, metric, "dark", np.zeros(runs), 0.95)
            found.append(low <= truth[metric, "dark"].mean() <= high)
    for metric, found in covered.items():
        assert sum(found) >= binom.ppf(1e-4, 100, 0.93), metric


def test_the_simulated_truth_is_that_of_very_many_photos():
    """Closed forms of the population against classifiers that answer 60,000 photos."""
    population = POPULATIONS[1]
    rng = np.random.default_rng(5)
    means = population.draw_runs(1, rng)
    tones, labels = (np.repeat(part, 460) for part in population.layout())
    answers = coverage.answers_of(draw_scores([means], tones, labels, rng)[0], tones, labels)
    truth = run_truth(means, population.counts)
    values = coverage.values_of(answers)
    for key in [
        ("accuracy", "all"),
        ("auc", "all"),
        ("auc", "dark"),
        ("sensitivity", "dark"),
        ("pqd", "all"),
        ("dpm", "all"),
    ]:
        assert values[key] == pytest.approx(truth[key][0], abs=0.015), key
    assert values["eom", "all"] == pytest.approx(truth["eom", "all"][0], abs=0.025)
    assert set(TONES) == {"light", "medium", "dark"}


def test_other_draws_give_nearly_the_same_interval():
    population = POPULATIONS[0]
    rng = np.random.default_rng(2)
    tones, labels = population.layout()
    means = population.draw_runs(1, rng)
    answers = coverage.answers_of(draw_scores([means], tones, labels, rng)[0], tones, labels)
    first, second = (disparities_of(answers, 0.95, 2000, seed) for seed in (1, 2))
    for name, figure in first.items():
        assert (figure.low, figure.high) == pytest.approx((second[name].low, second[name].high), abs=0.03), name
