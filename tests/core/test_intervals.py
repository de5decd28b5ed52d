"""Intervals against their definitions by enumeration, closed forms, scipy and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core import intervals
from cgddi.core.intervals import (
    auc_influence,
    auc_interval,
    blaker,
    hanley,
    likeness,
    placements,
    share_interval,
    sharing,
    smooth_interval,
    spread_of,
    strata_interval,
    within_bounds,
)
from scipy.stats import beta, binom, binomtest, norm, t, ttest_ind
from sklearn.metrics import f1_score, roc_auc_score


def accepted(right: int, images: int, share: np.ndarray) -> np.ndarray:
    """Blaker's confidence curve as defined: P(min tail of X <= min tail of `right`), by enumeration."""
    k = np.arange(images + 1)[:, None]
    tails = np.minimum(binom.cdf(k, images, share), binom.sf(k - 1, images, share))
    return (binom.pmf(k, images, share) * (tails <= tails[right] * (1 + 1e-9))).sum(0)


@pytest.mark.parametrize(("right", "images"), [(3, 10), (5, 5), (0, 7), (4, 5), (9, 11), (31, 38), (97, 132)])
def test_blaker_is_the_set_its_definition_accepts_and_lies_inside_clopper_pearson(right, images):
    share = np.linspace(0, 1, 20001)[1:-1]
    kept = share[accepted(right, images, share) > 0.05]
    low, high = blaker(right, images, 0.95)
    assert low == pytest.approx(0 if right == 0 else kept[0], abs=1e-4)
    assert high == pytest.approx(1 if right == images else kept[-1], abs=1e-4)
    exact = binomtest(right, images).proportion_ci(0.95, "exact")
    assert exact.low - 1e-9 <= low and high <= exact.high + 1e-9


@pytest.mark.parametrize("images", [5, 11])
def test_blaker_covers_every_share_where_wilson_does_not(images):
    share = np.linspace(0.0013, 0.9991, 998)  # limits themselves are met by no share here
    chance = binom.pmf(np.arange(images + 1)[:, None], images, share)
    ours = np.array([blaker(k, images, 0.95) for k in range(images + 1)])
    wilson = [binomtest(k, images).proportion_ci(0.95, "wilson") for k in range(images + 1)]
    covered = [
        (chance * ((ends[:, :1] <= share) & (share <= ends[:, 1:]))).sum(0)
        for ends in (ours, np.array([[ends.low, ends.high] for ends in wilson]))
    ]
    assert covered[0].min() > 0.95 - 1e-4 and covered[1].min() < 0.9
    with pytest.raises(ValueError, match="6 of 5"):
        blaker(6, 5)


def test_runs_that_answer_alike_are_one_run():
    right = np.repeat((np.arange(40) < 33)[None].astype(float), 4, axis=0)
    assert likeness([right]) == 1
    low, high = share_interval(right, 0.95, 1.0)
    exact = binomtest(33, 40).proportion_ci(0.95, "exact")
    assert (low, high) == pytest.approx((exact.low, exact.high), abs=1e-9)


def test_independent_answers_are_counted_as_far_as_they_are_independent():
    """No run differs from another: the effective photos are N / (alike + (1 - alike) / runs), less Student's allowance."""
    rng = np.random.default_rng(1)
    right = np.array([rng.permutation(np.arange(50) < 40) for _ in range(4)], float)
    size = 50 / (0.3 + 0.7 / 4)
    low, high = share_interval(right, 0.9, 0.3)
    assert low == pytest.approx(beta.ppf(0.05, 0.8 * size, 0.2 * size + 1))
    assert high == pytest.approx(beta.ppf(0.95, 0.8 * size + 1, 0.2 * size))
    one = np.ones((3, 5))
    low, high = share_interval(one, 0.95, 0.5)
    assert high == 1 and low == pytest.approx(0.025 ** ((0.5 + 0.5 / 3) / 5)), "five of five by all is not certain"


def test_likeness_is_the_correlation_of_two_runs():
    rng = np.random.default_rng(0)
    common = rng.random((1, 4000)) < 0.7
    same = rng.random((1, 4000)) < 0.6
    answers = np.where(same, common, rng.random((3, 4000)) < 0.7).astype(float)
    assert likeness([answers]) == pytest.approx(0.6, abs=0.04)
    assert np.corrcoef(answers)[0, 1] == pytest.approx(likeness([answers[:2]]), abs=0.02)
    assert likeness([np.ones((3, 4))]) == 1, "nothing to tell them apart"


def test_what_photos_share_between_splits_by_counting():
    """Two runs on 4 and 6 photos, 3 of them the same, answers of variance 1 that correlate by 0.5 on one photo."""
    asked = np.array([[1, 1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 1, 1, 1]], bool)
    cross = 3 * 0.5 / (4 * 6)
    mean, noise = sharing(asked, 0.5)
    assert mean == pytest.approx((1 / 4 + 1 / 6 + 2 * cross) / 4)
    assert noise == pytest.approx((1 / 4 + 1 / 6) / 2 - cross), "half the variance of the difference"
    both = sharing(np.vstack([asked, asked[1]]), 0.5, ("a", "b", "b"))
    assert both[0] == pytest.approx((1 / 4 + 3 / 6 + 4 * cross + 2 * 0.5 / 6 - 2 / 6 + 0 + 1 / 6 - 1 / 6) / 9, abs=0.02)


def test_spread_of_a_mean_and_its_degrees_of_freedom_by_hand():
    """Runs 0.7, 0.8, 0.9: variance 0.01; photos explain 0.004 of it and alone make the mean vary by 0.002."""
    spread = spread_of(np.array([0.7, 0.8, 0.9]), 0.002, 0.004)
    assert spread.variance == pytest.approx(0.002 + 0.006 / 3)
    assert spread.df == pytest.approx(2 * (0.004 / (0.01 / 3)) ** 2)
    assert spread.quantile(0.95) == pytest.approx(t.ppf(0.975, spread.df))
    half = spread_of(np.array([0.7, 0.8, 0.9]), 0.002, 0.009)
    assert half.variance == pytest.approx(0.002 + 0.005 / 3), "half of what runs differ by stays"
    lone = spread_of(np.array([0.7]), 0.002, 0.0)
    assert lone.variance == 0.002 and lone.quantile(0.9) == pytest.approx(norm.ppf(0.95))
    splits = spread_of(np.array([0.7, 0.8, 0.9, 1.0]), 0.002, 0.0, ("a", "a", "b", "b"))
    assert splits.variance == pytest.approx(0.002 + 0.02 / 2), "two splits of means 0.75 and 0.95"
    lent = spread_of(np.array([0.7, 0.8, 0.9]), 0.002, 0.004, prior=0.03)
    assert lent.variance == pytest.approx(0.002 + ((4 * 0.034 + 2 * 0.01) / 6 - 0.004) / 3)


def test_settings_whose_runs_were_trained_apart_vary_as_in_welchs_test():
    """Photos that tell nothing: scipy's interval of the difference of two samples of unlike variance."""
    first, second = np.array([0.71, 0.74, 0.80, 0.69, 0.77]), np.array([0.60, 0.75, 0.48, 0.81, 0.66])
    known = ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    spread = spread_of(np.stack([first, second]), 0.0, 0.0)
    half = spread.quantile(0.95) * np.sqrt(spread.variance)
    centre = first.mean() - second.mean()
    assert (centre - half, centre + half) == pytest.approx((known.low, known.high))
    found = smooth_interval(np.stack([first, second]), np.zeros((5, 30)), 0.95)
    assert (found.low, found.high) == pytest.approx((known.low, known.high))


def test_the_photos_put_at_either_end_are_as_near_as_means_of_runs_are():
    """Four runs, of 10 photos two that half of the runs get right: the mean of four answers that correlate by a quarter has
    (1 + 3 / 4) / 4 of one answer's variance."""
    answers = np.zeros((4, 10))
    answers[:2, :2] = 1
    found = strata_interval([answers], [1], (0, 1), 0.95, alike=0.25)
    mean = (0.1 * 10 + 1) / 12
    reach = np.sqrt((1 + 3 * 0.25) / 4) / 2
    photos = np.var([0.5, 0.5, *[0] * 8, 0.5 - reach, 0.5 + reach], ddof=1) / 12
    within = 2 * (2 * 0.5 * 0.5 * 4 / 3) / 20
    values = np.array([0.2, 0.2, 0, 0])
    spread = spread_of(values, photos, within / 10)
    half = t.ppf(0.975, min(spread.df, 11)) * np.sqrt(spread.variance)
    assert found.high == pytest.approx(mean + half) and found.low == max(mean - half, 0)


def scores(seed: int, runs: int = 2, n: int = 60):
    rng = np.random.default_rng(seed)
    positive = rng.random(n) < 0.3
    return np.round(rng.normal(size=(runs, n)) + 1.2 * positive, 1), positive


def test_placements_and_their_influence_are_those_of_the_area():
    score, positive = scores(0)
    score[1, :7] = np.nan
    above, below = placements(score, positive)
    influence = auc_influence(score, positive)
    for r, asked in enumerate(~np.isnan(score)):
        area = roc_auc_score(positive[asked], score[r, asked])
        assert np.nanmean(above[r]) == pytest.approx(area) == pytest.approx(np.nanmean(below[r]))
        assert np.nanmean(influence[r]) == pytest.approx(0, abs=1e-12)
        weight = np.ones(asked.sum())
        for n in (3, 20):
            weight[:] = 1
            weight[n] += 1e-4
            moved = roc_auc_score(positive[asked], score[r, asked], sample_weight=weight)
            place = np.flatnonzero(asked)[n]
            assert (moved - area) / 1e-4 * asked.sum() == pytest.approx(influence[r, place], rel=2e-2, abs=1e-3)


def test_area_interval_is_hanleys_at_the_limits_and_never_without_width():
    score, positive = scores(3, runs=1, n=400)
    low, high = auc_interval(score, positive, 0.95)
    area = roc_auc_score(positive, score[0])
    assert low < area < high and high - low == pytest.approx(
        2 * 1.96 * np.sqrt(hanley(area, positive.sum(), (~positive).sum())), rel=0.15
    )
    apart = np.concatenate([np.arange(38), 100 + np.arange(5)])[None].astype(float)
    low, high = auc_interval(apart, np.arange(43) >= 38, 0.95)
    assert high == 1 and 0.6 < low < 0.95


def test_one_stratum_of_one_run_is_bonett_and_prices_interval():
    """12 photos only the first gets right, 3 only the second, of 50."""
    apart = np.concatenate([np.ones(12), -np.ones(3), np.zeros(35)])[None]
    found = strata_interval([apart], [1], (-1, 1), 0.95)
    first, second = 13 / 52, 4 / 52
    error = np.sqrt((first + second - (first - second) ** 2) / 52 * 52 / 51)
    half = t.ppf(0.975, 51) * error
    assert (found.low, found.high) == pytest.approx((first - second - half, first - second + half), rel=1e-6)
    assert found.p == pytest.approx(2 * t.sf((first - second) / error, 51))
    same = strata_interval([np.zeros((1, 30))], [1], (-1, 1), 0.95)
    assert same.low < 0 < same.high and same.p == 1


def test_a_p_value_of_several_runs_keeps_its_level_where_runs_differ():
    """No difference on average, but each run is off by its own: McNemar on one run rejects far too often, this test does not."""
    rng = np.random.default_rng(2)
    ours, one_run = [], []
    for _ in range(400):
        chance = 0.8 + 0.06 * rng.normal(size=(2, 5, 1))
        right = rng.random((2, 5, 200)) < chance
        apart = right[0].astype(float) - right[1]
        ours.append(strata_interval([apart], [1], (-1, 1), 0.95).p < 0.05)
        gained, lost = (apart[0] == 1).sum(), (apart[0] == -1).sum()
        one_run.append(binomtest(int(gained), int(gained + lost)).pvalue < 0.05)
    assert np.mean(ours) < 0.085 and np.mean(one_run) > 0.2


def test_smooth_figures_by_what_each_photo_adds():
    """F1's influence against the figure itself with one photo counted a little more; limits stay between 0 and 1."""
    from cgddi.core.answers import Answers, influence_of_f1

    rng = np.random.default_rng(4)
    labels = (rng.random(80) < 0.4).astype(int)
    predicted = np.where(rng.random((1, 80)) < 0.8, labels, 1 - labels).astype(float)
    answers = Answers(labels, np.zeros(80, int), predicted, np.stack([1 - predicted, predicted], -1))
    influence = influence_of_f1(answers, np.ones(80, bool))
    value = f1_score(labels, predicted[0])
    for n in (0, 17, 33):
        weight = np.ones(80)
        weight[n] += 1e-4
        moved = f1_score(labels, predicted[0], sample_weight=weight)
        assert (moved - value) / 1e-4 * 80 == pytest.approx(influence[0, n], rel=1e-2, abs=1e-3)
    found = smooth_interval(np.array([value]), influence, 0.95)
    assert (found.high - found.low) / 2 == pytest.approx(
        t.ppf(0.975, 79) * influence.std(ddof=1) / np.sqrt(80), rel=1e-9
    )
    low, high = within_bounds(found, value, 80, 0.95)
    assert 0 < low < value < high < 1
    assert within_bounds(found, 1.0, 5, 0.95) == blaker(5, 5, 0.95)


def test_trust_of_small_groups_is_bounded():
    assert intervals.TRUST > 0 and intervals.BORROWED > 0
