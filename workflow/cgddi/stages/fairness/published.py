"""The published figures that stand beside ours (published.csv, in per cent, transcribed from the cgDDI thesis and page)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from cgddi.core.bootstrap import Setting


@cache
def published_figures() -> dict[tuple[str, str, str, str, str, str], float]:
    """(trained on, tested on, method, regime, metric, group) -> value in 0..1."""
    with open(Path(__file__).with_name("published.csv"), newline="", encoding="utf-8") as handle:
        rows = [row for row in csv.DictReader(handle)]
    keys = ("train", "test", "method", "regime", "metric", "group")
    return {tuple(row[key] for key in keys): float(row["percent"]) / 100 for row in rows}


def published_for(setting: Setting, metric: str, group: str, datasets: Mapping[str, str]) -> float | None:
    """The published value for a setting, or None: malignancy only, and only where training and test cohorts are those published.

    Args:
        setting: ours. metric, group: as in metrics.csv. datasets: cohort -> published data set.
    """
    record = setting.runs[0].record
    if record["task"] != "malignancy":
        return None
    sides = []
    for side in ("train", "test"):
        cohorts = record["cohorts"][side]
        if not cohorts or any(cohort not in datasets for cohort in cohorts):
            return None
        sides.append("+".join(sorted({datasets[cohort] for cohort in cohorts})))
    return published_figures().get((*sides, setting.method, setting.regime, metric, group))
