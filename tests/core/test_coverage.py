"""Intervals cover what they are about, by simulation: the worst cells of `python -m benchmarks coverage`, few times."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.answers import interval_of
from cgddi.core.images import TONES
from cgddi.stages.fairness.estimates import disparities_of, disparities_of_both
from scipy.special import ndtr
from scipy.stats import binom, multinomial
from sklearn.metrics import roc_auc_score

from benchmarks import coverage
from benchmarks._population import POPULATIONS, draw_scores, measured, run_truth
from benchmarks._references import between, exact_auc, exact_paired

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


def test_differences_between_unlike_regimes_are_covered(monkeypatch):
    """A fair regime and an unfair one whose runs differ twice as much, five runs each."""
    monkeypatch.setattr(coverage, "told", lambda *_: {})
    monkeypatch.setattr(coverage, "EXACT", 0)
    monkeypatch.setattr(coverage, "EVERY", 1)
    tally = coverage.simulate(POPULATIONS[-1], 5, 40)
    cells = [("difference", *key) for key in [*coverage.PAIRED, ("pqd", "all"), ("dpm", "all"), ("eom", "all")]]
    for cell in cells:
        assert sum(tally.covered[cell]) >= binom.ppf(1e-4, 40, 0.93), (cell, np.mean(tally.covered[cell]))


def test_two_settings_tell_more_of_how_runs_differ_than_one():
    """With the same variance between runs, known from both, each side's interval is narrower than alone: with five runs Student's
    quantile falls from 2.78 to 2.31."""
    population = POPULATIONS[2]
    rng = np.random.default_rng(4)
    tones, labels = population.layout()
    scores = draw_scores([population.draw_runs(5, rng)], tones, labels, rng)[0]
    answers = coverage.answers_of(scores, tones, labels)
    alone = disparities_of(answers, 0.95, 2000, 0)
    for side in disparities_of_both(answers, answers, 0.95, 2000, 0):
        narrower = [(side[name].high - side[name].low) / (alone[name].high - alone[name].low) for name in alone]
        assert 0.8 < np.median(narrower) < 0.99 and max(narrower) < 1.03


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


def test_the_exact_interval_of_paired_shares_holds_by_enumeration():
    """Twelve photos, all 91 tables: whatever the shares, at most 5 per cent of tables leave the true difference out."""
    tables = [(b, c) for b in range(13) for c in range(13 - b)]
    ends = np.array([exact_paired(b, c, 12) for b, c in tables])
    for one, other in [(0.02, 0.02), (0.1, 0.02), (0.3, 0.1), (0.05, 0.4), (0.5, 0.45), (0.9, 0.01)]:
        chance = np.array([multinomial.pmf([b, c, 12 - b - c], 12, [one, other, 1 - one - other]) for b, c in tables])
        # The grid of differences has steps of some 0.06.
        holds = (ends[:, 0] - 0.03 <= one - other) & (one - other <= ends[:, 1] + 0.03)
        assert chance[holds].sum() > 0.95, (one, other)
    low, high = exact_paired(3, 1, 43)
    assert low < 2 / 43 < high and 0.15 < high - low < 0.25, "Tango's asymptotic interval: -0.06 to 0.16"


def test_five_scores_above_all_others_contradict_no_area_that_gives_them_often_enough():
    """By drawing: the least area of binormal scores of which one test set in forty has five of five above 38 others."""
    rng = np.random.default_rng(0)
    up, down = rng.normal(size=(20000, 5)).min(1), rng.normal(size=(20000, 38)).max(1)
    shift = np.quantile(down - up, 0.025)
    assert between(exact_auc(5, 38), 1.0) == pytest.approx(1 - ndtr(shift / np.sqrt(2)), abs=0.03)


def test_figures_of_many_test_sets_are_those_of_scikit_learn():
    population = POPULATIONS[1]
    rng = np.random.default_rng(6)
    tones, labels = population.layout()
    scores = draw_scores([population.draw_runs(6, rng).reshape(3, 2, 3, 2)], tones, labels, rng)[0]
    found = measured(scores, tones, labels)
    dark = tones == 2
    assert found["auc", "dark"][2, 1] == pytest.approx(roc_auc_score(labels[dark], scores[2, 1, dark]))
    answers = coverage.answers_of(scores[2], tones, labels)
    values = coverage.values_of(answers)
    for key in found.keys() & values.keys():
        assert found[key][2].mean() == pytest.approx(values[key]), key
