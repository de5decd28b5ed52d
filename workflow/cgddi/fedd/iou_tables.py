"""Long tables of the segmenters: IoU by class and tone, the tone gap in lesion IoU, and paired differences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cgddi.core.bootstrap import Bootstrap
from cgddi.fedd.iou import compare_rows, gap_row, iou_rows
from cgddi.fedd.published import published_columns
from cgddi.fedd.study_runs import FEDD, Segmentation


@dataclass(frozen=True)
class Context:
    """What the tables need beside the runs.

    Args:
        cohort: of the study. per_tone: subset -> training photos per tone, by size. bootstrap: shared by all tables, so that
            differences are paired. datasets: cohort -> published data set.
    """

    cohort: str
    per_tone: Mapping[str, int]
    bootstrap: Bootstrap
    datasets: Mapping[str, str]

    def head(self, model: str, variant: str, subset: str, runs: int) -> dict[str, Any]:
        """The columns that name a setting."""
        size = self.per_tone.get(subset)
        return {"model": model, "variant": variant, "subset": subset, "per_tone": size, "runs": runs}

    def rank(self, subset: str) -> int:
        """Place of a subset by size."""
        return list(self.per_tone).index(subset) if subset in self.per_tone else len(self.per_tone)


Settings = Mapping[tuple[str, str, str], list[Segmentation]]


def in_order(settings: Settings, context: Context) -> list[tuple[tuple[str, str, str], list[Segmentation]]]:
    """FEDD first (plain before its variants), then U-Nets by name, each by size of the subset."""

    def key(item):
        model, variant, subset = item[0]
        return model != FEDD, variant != "plain", variant, model, context.rank(subset)

    return sorted(settings.items(), key=key)


def iou_frame(settings: Settings, context: Context) -> pd.DataFrame:
    """IoU by setting, class (and "mean") and tone (and "all"), with interval, counts and the published value."""
    rows = []
    for (model, variant, subset), runs in in_order(settings, context):
        head = context.head(model, variant, subset, len(runs))
        for row in iou_rows([run.test for run in runs], context.bootstrap):
            row = head | row
            rows.append(row | published_columns("iou", row, row["class"], context.cohort, context.datasets))
    return pd.DataFrame(rows)


def gap_frame(settings: Settings, context: Context) -> pd.DataFrame:
    """Lesion IoU of light minus that of dark skin, by setting, with interval, and the published gap where there is one."""
    rows = []
    for (model, variant, subset), runs in in_order(settings, context):
        row = context.head(model, variant, subset, len(runs))
        row |= gap_row([run.test for run in runs], context.bootstrap)
        sides = [
            published_columns("iou", row | {"tone": tone}, "lesion", context.cohort, context.datasets)
            for tone in ("light", "dark")
        ]
        if all(side["published"] is not None for side in sides):
            row |= sides[0] | {"published": round(sides[0]["published"] - sides[1]["published"], 6)}
        rows.append(row)
    columns = ["published", "published_data", "published_same"]
    frame = pd.DataFrame(rows)
    return frame.reindex(columns=[*(c for c in frame.columns if c not in columns), *columns])


def paired_frame(settings: Settings, context: Context) -> pd.DataFrame:
    """Differences on the same test images: each other treatment of tones, and each U-Net, against FEDD plain."""
    rows = []
    for (model, variant, subset), runs in in_order(settings, context):
        plain = settings.get((FEDD, "plain", subset))
        if plain is None or runs is plain:
            continue
        for row in compare_rows([run.test for run in plain], [run.test for run in runs], context.bootstrap):
            names = {"first": FEDD + " plain", "second": f"{model} {variant}".strip()}
            values = {"first_value": row.pop("first"), "second_value": row.pop("second")}
            rows.append({"subset": subset, **names, "runs": len(runs), **row, **values})
    return pd.DataFrame(rows)
