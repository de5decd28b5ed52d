"""Who is drawn and how often, on uneven data, against enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.job.trackers import reporting
from cgddi.stages.classify.rows import draws, sampling_weights
from cgddi.stages.classify.settings import ClassifySettings, Regime
from cgddi.stages.classify.train import train

from tests.stages.classify.cells import CELLS, NET, Linear, rows_of, settings_for


def chances(ratio, groups):
    """Chance of one image of each cell by enumeration: first (with a ratio) the side, then group within group, then the image."""
    found = {}
    for cell in CELLS:
        chance, inside = 1.0, list(CELLS)
        if ratio is not None:
            chance *= (ratio if cell[0] == "real" else 1) / (1 + ratio)
            inside = [c for c in inside if (c[0] == "real") == (cell[0] == "real")]
        for group in groups:
            chance /= len({tuple(c[k] for k in group) for c in inside})
            inside = [c for c in inside if all(c[k] == cell[k] for k in group)]
        found[cell] = chance / sum(CELLS[c] for c in inside)
    return found


GROUPS = {"none": [], "class": [(2,)], "tone_class": [(1, 2)], "tone_class_concept": [(1, 2), (3,)]}


@pytest.mark.parametrize("sampler", GROUPS)
@pytest.mark.parametrize("ratio", [None, 0.25, 1.0, 3.0])
def test_every_image_has_the_chance_that_its_groups_give_it(table, sampler, ratio):
    expected = chances(ratio, GROUPS[sampler])
    found = sampling_weights(table, sampler, ratio)
    cells = list(zip(table["kind"], table["tone"], table["label"], table["concept"], strict=True))
    assert np.allclose(found, [expected[cell] for cell in cells], rtol=1e-12)


@pytest.mark.parametrize(
    ("method", "sampler", "ratio", "groups"),
    [
        ("baseline", "class", None, [(2,)]),
        ("fairdisco", "class", 1.0, [(2,)]),
        ("patchalign", "tone_class_concept", 3.0, [(1, 2), (3,)]),
        ("resampling", "class", None, [(1, 2)]),
        ("resampling", "none", 0.5, [(1, 2)]),
    ],
)
def test_epochs_draw_with_replacement_by_these_chances(table, method, sampler, ratio, groups):
    settings = ClassifySettings(sampler=sampler, images_per_epoch=30000)
    [drawn] = draws(table, method, settings, ratio, 5, range(1))
    expected = chances(ratio, groups)
    cells = list(zip(table["kind"], table["tone"], table["label"], table["concept"], strict=True))
    found = np.bincount(drawn, minlength=len(table)) / 30000
    assert np.allclose(found, [expected[cell] for cell in cells], atol=0.006)


def test_an_epoch_draws_as_many_images_as_there_are_or_as_it_is_told(table):
    first, second = draws(table, "baseline", ClassifySettings(images_per_epoch=None), None, 5, range(2))
    assert len(first) == len(second) == len(table) and not np.array_equal(first, second)
    assert len(set(first)) < len(first), "with replacement"
    [again] = draws(table, "baseline", ClassifySettings(images_per_epoch=None), None, 5, [1])
    assert np.array_equal(again, second), "an epoch's draws depend on its number, not on those before it"
    [other] = draws(table, "baseline", ClassifySettings(images_per_epoch=None), None, 6, [1])
    assert not np.array_equal(other, second)
    [some] = draws(table, "baseline", ClassifySettings(images_per_epoch=17), None, 5, [0])
    assert len(some) == 17


def test_reweighting_draws_every_image_before_any_comes_again(table):
    n = len(table)
    for count, most in ((n, 1), (2 * n + 7, 3)):
        [drawn] = draws(table, "reweighting", ClassifySettings(images_per_epoch=count), None, 1, [0])
        times = np.bincount(drawn, minlength=n)
        assert len(drawn) == count and times.max() == most and times.min() == count // n
        assert sorted(drawn[:n]) == list(range(n)) and list(drawn[:n]) != list(range(n))


def test_training_draws_by_the_ratio_of_its_regime(table):
    """Photos of medium skin are real ones only: 5 of 23 real images, of 45 in all."""
    settings = settings_for(sampler="none", images_per_epoch=4000, training={**NET, "epochs": 1, "batch_size": 500})
    for ratio, share in ((None, 5 / 45), (3.0, 0.75 * 5 / 23)):
        model, regime = Linear(), Regime(name="r", sources=("real", "semantic"), ratio=ratio)
        train(reporting(None, settings.precision), model, rows_of(table), regime, "baseline", settings, 3)
        tones = [tone for _, batch, _ in model.seen for tone in batch]
        assert len(tones) == 4000 and tones.count(1) / 4000 == pytest.approx(share, abs=0.02)
