"""The published figures that stand beside ours (published.csv, transcribed from FEDD, MICCAI 2023)."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any


@cache
def _figures() -> dict[tuple[str, str, str, str, str], Mapping[str, str]]:
    with open(Path(__file__).with_name("published.csv"), newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return {tuple(row[key] for key in ("table", "model", "subset", "metric", "tone")): row for row in rows}


def published_columns(
    table: str, row: Mapping[str, Any], metric: str, cohort: str, datasets: Mapping[str, str]
) -> dict[str, Any]:
    """Columns published, published_data and published_same of a row; empty where nothing was published.

    Args:
        table: "iou" or "classification".
        row: model, variant, subset, per_tone and tone of ours. A segmenter other than the plain one has no published figure.
        metric: mean, lesion, auc, f1, ...
        cohort: ours.
        datasets: cohort -> published data set.

    Returns:
        published_same is true where data and number of training photos are the published ones too; otherwise the figure was
        reached on other data and is only for orientation.
    """
    found = None
    if row.get("variant", "plain") in ("plain", ""):
        found = _figures().get((table, row["model"], str(row["subset"]), metric, row["tone"]))
    if found is None:
        return {"published": None, "published_data": "", "published_same": None}
    same = datasets.get(cohort) == found["data"] and int(found["per_tone"]) == row["per_tone"]
    return {"published": float(found["value"]), "published_data": found["data"], "published_same": same}
