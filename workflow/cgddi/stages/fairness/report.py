"""From predictions to all files of the fairness stage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from tqdm import tqdm

from cgddi.core.bootstrap import Bootstrap, Setting
from cgddi.stages.fairness.frames import by_disease_frame, by_rarity_frame, by_tone_frame, metrics_frame
from cgddi.stages.fairness.paired import compare
from cgddi.stages.fairness.plots import calibration, metrics_with_intervals, roc_by_tone
from cgddi.stages.fairness.runs import gather, read_run
from cgddi.stages.fairness.settings import FairnessSettings
from cgddi.stages.fairness.tables import count_lines, flip_lines, latex, markdown, rows_of


def paired_frame(settings: Sequence[Setting], bootstrap: Bootstrap, options: FairnessSettings) -> pd.DataFrame:
    """All comparisons of `options.compare`, with McNemar's p adjusted by Holm over them."""
    have = {(setting.split, setting.regime, setting.method): setting for setting in settings}
    rows = []
    for split, method in dict.fromkeys((setting.split, setting.method) for setting in settings):
        for first, second in options.compare:
            left, right = have.get((split, first, method)), have.get((split, second, method))
            if left and right and left.runs[0].classes == right.runs[0].classes:
                rows += compare(left, right, bootstrap, options.calibration_bins)
    table = pd.DataFrame(rows)
    if len(table) and "p_mcnemar" in table:
        tested = table["p_mcnemar"].dropna().sort_values()
        adjusted = (tested * np.arange(len(tested), 0, -1)).cummax().clip(upper=1)
        table["p_mcnemar_holm"] = adjusted
    return table


def report(
    predictions: Sequence[str], options: FairnessSettings, seed: int
) -> tuple[dict[str, bytes | str], dict[str, Any]]:
    """All tables and plots.

    Args:
        predictions: csv files, each with its record.json beside it.
        options: settings of the stage.
        seed: the project's seed.

    Returns:
        File name -> content, and the facts for summary.json.
    """
    runs = [read_run(path) for path in tqdm(predictions, desc="read predictions", unit="run")]
    settings = gather(runs, options.families)
    bootstrap = Bootstrap(options.bootstrap, options.confidence, seed, options.resample_runs)
    metrics = metrics_frame(settings, bootstrap, options)
    frames = {
        "metrics": metrics,
        "by_tone": by_tone_frame(metrics),
        "by_rarity": by_rarity_frame(settings, bootstrap, options),
        "by_disease": by_disease_frame(settings, options),
        "paired": paired_frame(settings, bootstrap, options),
    }
    files: dict[str, bytes | str] = {f"{name}.csv": table.to_csv(index=False) for name, table in frames.items()}
    tables = (metrics, frames["by_rarity"], options)
    files["table.md"], files["table.tex"] = markdown(*tables), latex(*tables)
    files["roc.png"] = roc_by_tone(settings)
    files["metrics.png"] = metrics_with_intervals(metrics)
    files["calibration.png"] = calibration(settings)
    lines, notes = rows_of(metrics)
    summary = {
        "runs": len(runs),
        "table": lines,
        "notes": notes,
        "counts": count_lines(metrics),
        "eom_flips": flip_lines(metrics),
        "marks": {setting.name: setting.marks for setting in settings if setting.marks},
        "settings": _plain(metrics[metrics["group"] == "all"]),
        "paired": _plain(frames["paired"]),
    }
    return files, summary


def _plain(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as plain values for JSON, missing ones left out."""
    return [
        {key: (value.item() if hasattr(value, "item") else value) for key, value in row.items() if not pd.isna(value)}
        for row in table.to_dict("records")
    ]
