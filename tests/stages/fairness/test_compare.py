"""Regimes compared: the same photos and runs, intervals, p-values where runs allow one, Holm's adjustment."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from cgddi.core.answers import Answers
from cgddi.core.images import TONES
from cgddi.core.inversion import Disparity
from cgddi.stages.fairness.compare import compare, discordant, holm, paired_table, shown
from cgddi.stages.fairness.estimates import correlations, disparity_difference
from cgddi.stages.fairness.predictions import gather, read_run
from cgddi.stages.fairness.settings import FairnessSettings
from scipy.stats import t

from tests.stages.fairness.predictions import write_all, write_run

OPTIONS = FairnessSettings(test_sets=100)


def settings_of(paths):
    return {(s.split, s.regime): s for s in gather([read_run(path) for path in paths])}


def frames_of(paths):
    return [pd.read_csv(path).sort_values("image_id") for path in paths]


@pytest.mark.parametrize("seed", range(4))
def test_holm_is_the_least_level_at_which_the_steps_reject(seed):
    """Uneven p-values with ties and gaps: at level a, Holm rejects from the least p on while p <= a / (hypotheses left)."""
    rng = np.random.default_rng(seed)
    p = pd.Series(rng.choice([0.001, 0.004, 0.004, 0.011, 0.02, 0.02, 0.2, 0.7, np.nan], 9), index=rng.permutation(9))
    ordered = sorted(p.dropna().items(), key=lambda item: item[1])

    def rejected(level):
        found = set()
        for left, (name, value) in zip(range(len(ordered), 0, -1), ordered, strict=True):
            if value > level / left * (1 + 1e-9):
                break
            found.add(name)
        return found

    levels = sorted({value * k for _, value in ordered for k in range(1, 10)})
    expected = {name: min([a for a in levels if name in rejected(a)] + [1.0]) for name, _ in ordered}
    assert holm(p).to_dict() == pytest.approx(expected)


def test_holm_as_worked_by_hand():
    """Smallest first, times 4, 3, 2 and 1, and never less than the one before."""
    p = pd.Series([0.01, 0.04, 0.03, 0.005])
    assert holm(p).sort_index().tolist() == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_one_run_per_regime_has_intervals_but_no_p(tmp_path):
    settings = settings_of(write_all(tmp_path, (0,)))
    table = paired_table(list(settings.values()), OPTIONS, 1)
    assert "p" not in table and "p_holm" not in table and len(table) == 3 * 11
    row = table[(table["metric"] == "accuracy") & (table["group"] == "all")].iloc[0]
    assert row["low"] < row["difference"] < row["high"]


def test_several_runs_test_accuracy_alone_adjusted_over_all_comparisons(tmp_path):
    settings = settings_of([*write_all(tmp_path), *write_all(tmp_path, split="other")])
    table = paired_table(list(settings.values()), OPTIONS, 1)
    tested = table[table["p"].notna()]
    assert set(zip(tested["metric"], tested["group"], strict=True)) == {("accuracy", "all")} and len(tested) == 6
    assert tested["p_holm"].to_dict() == pytest.approx(holm(tested["p"]).to_dict())
    for row in tested.itertuples():
        assert (row.p < 0.05) == (row.low > 0 or row.high < 0), "test and interval agree"


def test_differences_are_of_the_same_photos_and_the_same_runs(tmp_path):
    real = [write_run(tmp_path, "real", seed, 0.6) for seed in (0, 1, 7)]
    synthetic = [write_run(tmp_path, "synthetic", seed, 1.1) for seed in (1, 0, 5)]
    settings = settings_of([*real, *synthetic])
    first, second = settings["single", "synthetic"], settings["single", "real"]
    rows = {(row["metric"], row["group"]): row for row in compare(first, second, OPTIONS, 1)}
    sides = [frames_of((synthetic[1], synthetic[0])), frames_of(real[:2])]
    right = [np.array([(f["malignant"] == f["predicted"]).to_numpy(float) for f in side]) for side in sides]
    apart = right[0] - right[1]
    row = rows["accuracy", "all"]
    assert row["difference"] == pytest.approx(apart.mean()) and row["runs"] == 2
    # Student's interval by hand: photos with one more at either end, as near as means of two runs are, and runs trained apart.
    photos = sides[0][0]
    cells = [np.flatnonzero((photos["tone"] == g) & (photos["malignant"] == c)) for g in TONES for c in (True, False)]
    within = sum(apart[:, cell].var(0, ddof=1).sum() for cell in cells)
    total = sum(apart[:, cell].var() * len(cell) ** 2 / (len(cell) - 1) for cell in cells)
    reach = np.sqrt((1 + max(1 - within / total, 0)) / 2)
    padded = np.append(apart.mean(0), [-reach, reach])
    raws = [side.mean(1).var(ddof=1) for side in right]
    raw, noise = sum(raws), apart.var(0, ddof=1).mean() / 120
    variance = padded.var(ddof=1) / 122 + max(raw - noise, raw / 2) / 2
    df = min(raw**2 / sum(part**2 for part in raws) * (variance / (raw / 2)) ** 2, 121)
    centre = apart.sum() / 2 / 122
    half = t.ppf(0.975, df) * np.sqrt(variance)
    assert (row["low"], row["high"]) == pytest.approx((max(centre - half, -1), min(centre + half, 1)))
    assert row["p"] == pytest.approx(2 * t.sf(abs(centre) / np.sqrt(variance), df))
    means = [np.mean([f["probability"] for f in side], axis=0) > 0.5 for side in sides]
    label = sides[0][0]["malignant"].to_numpy()
    expected = (((means[0] == label) & (means[1] != label)).sum(), ((means[0] != label) & (means[1] == label)).sum())
    assert (
        (row["only_first_right"], row["only_second_right"])
        == expected
        == discordant(*([run for run in s.runs if run.seed in (0, 1)] for s in (first, second)))
    )
    lonely = settings_of([write_run(tmp_path, "other", 9, 1.0)])["single", "other"]
    assert compare(second, lonely, OPTIONS, 1) == []


def test_a_real_difference_is_found_and_none_where_there_is_none(tmp_path):
    skills = {"real": 0.2, "synthetic": 2.5}
    settings = settings_of([write_run(tmp_path, r, seed, skill) for r, skill in skills.items() for seed in range(4)])
    first, second = settings["single", "synthetic"], settings["single", "real"]
    row = compare(first, second, OPTIONS, 1)[0]
    assert row["low"] > 0.15 and row["p"] < 1e-3
    same = compare(second, second, OPTIONS, 1)
    assert all(line["difference"] == 0 for line in same)
    assert all(line["low"] < 0 < line["high"] for line in same if line["metric"] != "auc"), "never of zero width"
    assert same[0]["p"] == 1


def test_differences_of_compared_tones_are_recovered_from_their_intervals():
    """Zou and Donner's limits by hand: the first 0.2 below and 0.05 above, the second 0.05 and 0.1, correlation 0.5."""
    first = Disparity(0.6, 0.8, 0.85, 0, 0, 0)
    second = Disparity(0.7, 0.75, 0.85, 0, 0, 0)
    low, value, high = disparity_difference(first, second, 0.5)
    assert value == pytest.approx(0.05)
    assert low == pytest.approx(0.05 - np.sqrt(0.04 + 0.01 - 2 * 0.5 * 0.02))
    assert high == pytest.approx(0.05 + np.sqrt(0.0025 + 0.0025 - 2 * 0.5 * 0.0025))


def test_regimes_that_answer_alike_have_correlated_figures(tmp_path):
    settings = settings_of([write_run(tmp_path, regime, 0, 1.0) for regime in ("real", "synthetic")])
    first, second = (Answers.of(setting) for setting in settings.values())
    assert all(value == pytest.approx(0.9) for value in correlations(first, first).values()), "capped"
    assert all(0 <= value < 0.6 for value in correlations(first, second).values())


def test_a_difference_that_does_not_exist_is_written_as_undefined():
    nan = float("nan")
    table = pd.DataFrame({"metric": ["eom", "accuracy"], "difference": [nan, 0.1], "low": [nan, nan], "p": [nan, 0.5]})
    rows = shown(table).to_csv(index=False).splitlines()
    assert rows[1:] == ["eom,undefined,undefined,", "accuracy,0.1,,0.5"] and shown(pd.DataFrame()).empty
