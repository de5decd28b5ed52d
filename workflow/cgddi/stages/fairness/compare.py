"""Regimes compared on the same test photos: differences with intervals, and a test where runs tell what training again would
change."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cgddi.core.answers import Answers
from cgddi.core.bootstrap import Run, Setting
from cgddi.core.images import TONES
from cgddi.core.seeds import seed_for
from cgddi.stages.fairness.estimates import correlations, difference, disparities_of_both, disparity_difference
from cgddi.stages.fairness.settings import FairnessSettings
from cgddi.stages.fairness.tables import SUMMARY_METRICS, by_run

SHOWN = [("accuracy", group) for group in ("all", *TONES)] + [(metric, "all") for metric in SUMMARY_METRICS]
TESTED = ("accuracy", "all")
"""The one figure that is tested; the family that Holm's adjustment is over is this figure of all comparisons of a table."""


def holm(p: pd.Series) -> pd.Series:
    """p-values adjusted for their number (Holm 1979), missing ones left out."""
    ordered = p.dropna().sort_values()
    return (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)


def discordant(first: Sequence[Run], second: Sequence[Run]) -> tuple[int, int]:
    """Photos that only the first and only the second regime gets right, by the mean probability over its runs of each split."""
    only_first = only_second = 0
    for split in sorted({run.record["split"] for run in first}):
        votes = []
        for runs in (first, second):
            mine = [run for run in runs if run.record["split"] == split]
            votes.append(np.mean([run.probability for run in mine], axis=0).argmax(1) == mine[0].labels)
        only_first += int((votes[0] & ~votes[1]).sum())
        only_second += int((~votes[0] & votes[1]).sum())
    return only_first, only_second


def compare(first: Setting, second: Setting, options: FairnessSettings, seed: int) -> list[dict[str, Any]]:
    """Rows of the paired table: first minus second, over the runs both have (same split and seed).

    One run of each: the interval is about these two fitted classifiers, and there is no p-value, since training again may well
    turn the difference round. Several: about the mean over runs, and accuracy is tested (Student, photos and runs drawn).
    `difference` of figures that compare tones is of their median-unbiased values. Settings without a common run give no rows.
    """
    left, right = ({(run.record["split"], run.seed): run for run in setting.runs} for setting in (first, second))
    common = [key for key in left if key in right]
    if not common:
        return []
    runs = [tuple(side[key] for key in common) for side in (left, right)]
    answers = [Answers.of(Setting(first.split, "", "", part)) for part in runs]
    values = [by_run(part) for part in runs]
    draws = seed_for(seed, "test sets")
    compared = disparities_of_both(*answers, options.confidence, options.test_sets, draws)
    alike = correlations(*answers)
    only_first, only_second = discordant(*runs)
    several = len(set(answers[0].units or range(len(common)))) > 1
    rows = []
    for metric, group in SHOWN:
        if (metric, group) not in values[0]:
            continue
        row = {"split": first.split, "method": first.method, "first": first.regime, "second": second.regime}
        row |= {"metric": metric, "group": group}
        sides = np.stack([side[metric, group] for side in values])
        ends = dict.fromkeys(("difference", "low", "high"), float("nan"))
        if metric in compared[0] and None not in (compared[0][metric], compared[1][metric]):
            low, value, high = disparity_difference(compared[0][metric], compared[1][metric], alike[metric])
            ends = {"difference": value, "low": low, "high": high}
        elif metric not in compared[0] and np.isfinite(sides).all():
            found = difference(*answers, metric, group, sides, options.confidence)
            ends = {"difference": float((sides[0] - sides[1]).mean()), "low": found.low, "high": found.high}
            if several and (metric, group) == TESTED:
                row["p"] = found.p
        row |= ends
        row |= {"runs": len(common), "images": int((~np.isnan(answers[0].predicted)).sum(1).mean().round())}
        row["caveats"] = "; ".join(dict.fromkeys([*first.caveats, *second.caveats]))
        if (metric, group) == TESTED:
            row |= {"only_first_right": only_first, "only_second_right": only_second}
        rows.append(row)
    return rows


def paired_table(settings: Sequence[Setting], options: FairnessSettings, seed: int) -> pd.DataFrame:
    """All comparisons of `options.compare`; p adjusted by Holm over them."""
    have = {(setting.split, setting.regime, setting.method): setting for setting in settings}
    rows = []
    for split, method in dict.fromkeys((setting.split, setting.method) for setting in settings):
        for pair in options.compare:
            left, right = (have.get((split, regime, method)) for regime in pair)
            if left and right and left.runs[0].classes == right.runs[0].classes:
                rows += compare(left, right, options, seed)
    table = pd.DataFrame(rows)
    if "p" in table:
        table["p_holm"] = holm(table["p"])
    return table


def shown(table: pd.DataFrame) -> pd.DataFrame:
    """The comparisons as they are written: `undefined` where one of both figures does not exist."""
    ends = [name for name in ("difference", "low", "high") if name in table]
    missing = table[ends[:1]].isna().any(axis=1)
    return table.assign(**{name: table[name].astype(object).mask(missing, "undefined") for name in ends})
