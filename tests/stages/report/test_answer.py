"""The answer in three sentences: a direction only where the interval leaves zero, and what a reader must know beside it."""

from __future__ import annotations

import pandas as pd
import pytest
from cgddi.stages.report.answer import comparison, groups, sentences
from cgddi.stages.report.page import answer_of


def row(metric, group, difference, low, high, runs=3, **more):
    row = {
        "split": "main",
        "method": "fairdisco",
        "first": "synthetic",
        "second": "real",
        "metric": metric,
        "group": group,
    }
    ends = {"difference": difference, "low": low, "high": high}
    return row | {key: value for key, value in ends.items() if value is not None} | {"runs": runs, "images": 450} | more


def told(*rows):
    values = {
        ("main", "fairdisco", regime, "balanced_accuracy", "all"): value
        for regime, value in (("real", 0.547), ("synthetic", 0.62))
    }
    return sentences(groups(rows)[0], values, {("main", "all"): 450, ("main", "dark"): 150})


def test_a_clear_gain_is_told_with_its_interval_and_photos():
    balanced, dark, eom = told(
        row("balanced_accuracy", "all", 0.073, 0.012, 0.16),
        row("accuracy", "dark", -0.05, -0.08, -0.01),
        row("eom", "all", 0.2, -0.4, 0.6),
    )
    assert balanced == (
        "Learning from synthetic images instead of real photos raised balanced accuracy by 7.3 points (+1.2 to +16.0), "
        "from 54.7 to 62.0 %, on 450 test photos."
    )
    assert dark == "It lowered accuracy on dark skin by 5.0 points (−8.0 to −1.0), on 150 photos."
    assert eom.startswith("It cannot be told whether it changed EOM: +20.0 points (−40.0 to +60.0)")


@pytest.mark.parametrize("low, high", [(-0.014, 0.16), (-0.2, 0.0), (0.0, 0.1), (None, None)])
def test_an_interval_that_reaches_zero_or_is_none_names_no_direction(low, high):
    balanced, *_ = told(row("balanced_accuracy", "all", 0.073, low, high))
    assert balanced.startswith(
        "It cannot be told whether learning from synthetic images instead of real photos raises or lowers"
    )
    assert "raised" not in balanced and "lowered" not in balanced
    assert ("no interval" in balanced) == (low is None)


def test_one_run_says_that_training_again_may_turn_it_round():
    balanced, dark, eom = told(row("balanced_accuracy", "all", 0.1, 0.05, 0.15, runs=1))
    assert "training again may turn it round" in balanced
    assert dark == "Accuracy on dark skin: the test photos do not tell." and eom == "EOM: the test photos do not tell."


def test_unknown_regimes_go_by_their_names():
    balanced, *_ = told(row("balanced_accuracy", "all", 0.1, 0.05, 0.15, first="mine"))
    assert "the images of regime mine" in balanced


def test_the_plot_has_its_zero_in_the_middle_and_shows_what_does_not_fit_at_its_edge():
    rows = groups(
        [
            row("balanced_accuracy", "all", 0.1, 0.05, 0.2),
            row("accuracy", "dark", 0.0, -0.1, 0.1),
            row("eom", "all", 0.18, -0.9, 0.9),
            row("auc", "all", None, None, None),
        ]
    )[0]
    plot = comparison(rows)
    assert plot.reach == 20 and [line["name"] for line in plot.rows] == [
        "balanced accuracy, all",
        "accuracy, dark",
        "EOM",
    ]
    balanced, dark, eom = plot.rows
    assert (balanced["low"], balanced["at"], balanced["high"]) == (62.5, 75, 100) and balanced["sure"]
    assert (dark["low"], dark["at"], dark["high"]) == (25, 50, 75) and not dark["sure"]
    assert (eom["low"], eom["high"], eom["told"]) == (0, 100, "+18.0 (−90.0 to +90.0)")
    assert (
        comparison(rows | {("eom", "all"): row("eom", "all", 0.35, -0.9, 0.9)}).reach == 50
    )  # its dot is never cut off


def test_comparisons_stand_in_the_order_of_the_table():
    rows = [row("accuracy", "all", 0.1, 0, 1, first=first) for first in ("synthetic_real", "synthetic")]
    assert [comparison(each).title.split()[0] for each in groups(rows)] == ["synthetic_real", "synthetic"]


def test_what_is_said_of_eom_adds_up(tmp_path):
    setting = {"split": "main", "method": "fairdisco", "task": "malignancy", "runs": 3, "caveats": "", "images": 450}
    figures = [("real", "eom", 0.393, 0.3948), ("synthetic", "eom", 0.7722, 0.7189)]
    figures += [(regime, "accuracy", 0.5, None) for regime in ("real", "synthetic")]
    rows = [
        setting | {"regime": regime, "metric": metric, "group": "all", "value": value, "unbiased": unbiased}
        for regime, metric, value, unbiased in figures
    ]
    pd.DataFrame(rows).assign(low=0.2, high=0.9).to_csv(tmp_path / "metrics.csv", index=False)
    paired = [row("eom", "all", 0.7189 - 0.3948, 0.09, 0.62)]
    *_, eom = answer_of({"paired": paired}, str(tmp_path / "summary.json"))["sentences"]
    assert "raised EOM by 32.4 points (+9.0 to +62.0), from 39.5 to 71.9 %" in eom
