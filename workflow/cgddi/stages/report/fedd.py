"""The report's section on masks and FEDD: the study's tables and figures, and what this run's masks are worth."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import markdown
import pandas as pd

from cgddi.core.archive import Archive
from cgddi.stages.report.masks import AUTOMATIC, against_human, downstream, examples, flag_counts, idle_donors
from cgddi.stages.report.pictures import data_uri

PLOTS = {
    "learning": "IoU of the segmenters against the number of training photos, by skin tone, with bootstrap intervals",
    "gap": "The tone gap: lesion IoU on light minus that on dark skin",
    "masks": "Predicted masks of test photos beside the human ones; uncertainty is how much the ensemble's networks disagree",
    "classification": "Malignancy: AUC, and F1 by skin tone, against the number of training photos",
    "ablation": "Accuracy of the malignancy probe by decoder block and timestep; framed: the block chosen on validation",
    "roc": "ROC of the malignancy classifiers on the test photos",
    "kmeans": "K-means (K = 3) of the diffusion model's decoder blocks; the starred ones feed the segmenter",
}
"""Figures of the study in the order of the page, and their captions."""

TABLES = {
    "iou": "IoU by class and tone, all segmenters",
    "gap": "Tone gap in lesion IoU",
    "paired": "Differences on the same test photos",
    "classification": "Malignancy, all metrics",
    "ablation": "Probe by block and timestep",
}


def section(
    spec: Mapping[str, Any],
    settings: Any,
    summary: str | None,
    masks: Sequence[str],
    canvases: Sequence[str],
    mapped: Sequence[str],
) -> dict[str, Any] | None:
    """What the page's template shows, or None when there is neither a study nor an automatic mask.

    Args:
        spec: the report's spec; `human_masks` (cohort -> crop, id_map, files) where automatic masks can be compared.
        settings: `ReportSettings`.
        summary: fedd/tables/summary.json of the study, or None.
        masks: masks archives. canvases, mapped: archives made from them.
    """
    archives = [Archive(path) for path in masks]
    sources = {row["mask_source"] for archive in archives for row in archive.rows}
    if not summary and not sources.intersection(AUTOMATIC):
        return None
    found: dict[str, Any] = {"tables": {}, "plots": {}, "details": {}, "study": None, "examples": {}, "sources": []}
    if summary:
        folder = Path(summary).parent
        facts = json.loads(Path(summary).read_text(encoding="ascii"))
        text = (folder / "table.md").read_text(encoding="utf-8")
        table = markdown.markdown(text, extensions=["tables"]).replace(" (published", "<br>(published")
        found["study"] = {"cohort": facts["cohort"], "table": table}
        names = set(facts["files"])
        found["plots"] = {text: data_uri(folder / f"{n}.png") for n, text in PLOTS.items() if f"{n}.png" in names}
        found["details"] = {
            text: _table(pd.read_csv(folder / f"{n}.csv")) for n, text in TABLES.items() if f"{n}.csv" in names
        }
    if archives:
        found["tables"]["Masks by cohort and skin tone, and what was noticed about them"] = _table(
            flag_counts(archives)
        )
        made = [Archive(path) for path in mapped]
        for caption, table in against_human(archives, spec.get("human_masks") or {}, int(spec["seed"])):
            found["tables"][caption] = _table(table)
        idle = idle_donors(made)
        caption = "What came of the masks in this run, by the canvas's skin tone"
        caption += f"; {idle} donor(s) gave no lesion or found no room" if idle else ""
        table = downstream(archives, [Archive(path) for path in canvases], made)
        found["tables"][caption] = _table(table)
        found["sources"] = sorted(sources.intersection(AUTOMATIC))
        found["examples"] = examples(archives, settings.images_per_cell, settings.thumbnail, int(spec["seed"]))
    return found


def _table(frame: pd.DataFrame) -> str:
    return frame.to_html(index=False, border=0, na_rep="", float_format="%.3f")
