"""The stratified bootstrap: its draws, its intervals and what it does with undefined replicates."""

from types import SimpleNamespace

import numpy as np
import pytest
from cgddi.core.bootstrap import Bootstrap, Setting, stratified_weights
from cgddi.core.seeds import seed_for


def run(split: str, n: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    tones, labels = rng.choice(3, n, p=[0.6, 0.3, 0.1]), rng.choice(2, n, p=[0.75, 0.25])
    return SimpleNamespace(record={"split": split}, tones=tones, labels=labels, right=rng.random(n) < 0.7)


def accuracy(run, weights):
    return {"accuracy": weights @ run.right / weights.sum(1)}


def test_weights_keep_the_size_of_every_tone_and_class_and_have_the_binomial_spread():
    one = run("a", 300)
    weights = stratified_weights(one.tones, one.labels, 4000, 1)
    variance = 0.0
    for tone in range(3):
        for label in range(2):
            here = (one.tones == tone) & (one.labels == label)
            assert (weights[:, here].sum(1) == here.sum()).all()
            share = one.right[here].mean()
            variance += here.sum() * share * (1 - share)
    assert (weights @ one.right / 300).std() == pytest.approx(np.sqrt(variance) / 300, rel=0.05)
    assert not np.array_equal(weights, stratified_weights(one.tones, one.labels, 4000, 2))


def test_replicates_are_shared_within_a_split_and_drawn_by_seed_and_split():
    bootstrap = Bootstrap(50, 0.9, 3)
    a, b = run("a", 60), run("b", 60)
    expected = stratified_weights(a.tones, a.labels, 50, seed_for(3, "bootstrap", "a"))
    assert np.array_equal(bootstrap.weights(a), expected)
    assert bootstrap.weights(run("a", 60)) is bootstrap.weights(a), "so that differences are paired"
    assert not np.array_equal(bootstrap.weights(b), expected)
    assert not np.array_equal(Bootstrap(50, 0.9, 4).weights(a), expected)


def test_each_replicate_draws_as_many_runs_as_there_are_with_replacement():
    """Runs that differ in a constant: the spread of the replicates is that of the mean of three draws from three values."""
    values = {"x": 0.1, "y": 0.5, "z": 0.9}
    runs = []
    for name in values:
        runs.append(run("a", 30))
        runs[-1].value = values[name]
    replicates = Bootstrap(4000, 0.95, 1).replicates(
        Setting("a", "", "", tuple(runs)), lambda run, weights: {"value": np.full(len(weights), run.value)}
    )
    by_run, drawn = replicates["value"]
    assert list(by_run) == list(values.values())
    assert drawn.mean() == pytest.approx(0.5, abs=0.01)
    assert drawn.std() == pytest.approx(np.std(list(values.values())) / np.sqrt(3), rel=0.05)
    assert set(np.round(drawn, 6)) == {
        round(sum(c) / 3, 6) for c in [(a, b, c) for a in values.values() for b in values.values() for c in values.values()]
    }  # fmt: skip


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_an_interval_is_the_percentiles_of_the_replicates(confidence):
    bootstrap = Bootstrap(500, confidence, 3)
    one = run("a", 80)
    by_run, replicates = bootstrap.replicates(Setting("a", "", "", (one,)), accuracy)["accuracy"]
    estimate = bootstrap.estimate(by_run, replicates)
    assert estimate.value == pytest.approx(one.right.mean()) and estimate.undefined == 0
    tail = 100 * (1 - confidence) / 2
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.percentile(replicates, [tail, 100 - tail])))


def test_one_image_a_cell_and_images_that_are_all_right_give_no_interval():
    """A percentile interval would have no width there: 1.00 (1.00 to 1.00) of two images."""
    alone = SimpleNamespace(
        record={"split": "a"}, tones=np.arange(2), labels=np.array([0, 1]), right=np.array([1.0, 0.0])
    )
    sure = SimpleNamespace(record={"split": "b"}, tones=np.zeros(9, int), labels=np.arange(9) % 2, right=np.ones(9))
    bootstrap = Bootstrap(50, 0.95, 3)
    for one, value in ((alone, 0.5), (sure, 1.0)):
        estimate = bootstrap.estimate(*bootstrap.replicates(Setting("a", "", "", (one,)), accuracy)["accuracy"])
        assert estimate.value == value and estimate.defined and np.isnan([estimate.low, estimate.high]).all()


def test_undefined_replicates_are_left_out_and_counted_and_an_undefined_run_is_never_imputed():
    bootstrap = Bootstrap(4, 0.5, 0)
    estimate = bootstrap.estimate(np.array([0.5]), np.array([np.nan, 0.2, 0.4, 0.6]))
    assert (estimate.low, estimate.high, estimate.undefined) == (pytest.approx(0.3), pytest.approx(0.5), 0.25)
    undefined = bootstrap.estimate(np.array([0.5, np.nan]), np.array([0.1, 0.2, 0.3, 0.4]))
    assert not undefined.defined and np.isnan(undefined.low) and undefined.undefined == 1
    none = bootstrap.estimate(np.array([0.5]), np.full(4, np.nan))
    assert none.value == 0.5 and np.isnan(none.low)
