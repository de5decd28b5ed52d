"""From the study's runs to its tables, plots and pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cgddi.core.bootstrap import Bootstrap
from cgddi.core.errors import UserError
from cgddi.fedd import plots
from cgddi.fedd.iou_tables import Context, gap_frame, iou_frame, paired_frame
from cgddi.fedd.malignancy_tables import ablation_frame, chosen_settings, classification_frame
from cgddi.fedd.mask_pictures import kmeans_picture, masks_picture, read_pictures
from cgddi.fedd.settings import TablesSettings
from cgddi.fedd.study_runs import StudyRuns, by_setting, read_runs
from cgddi.fedd.tables_text import blocks_of, latex, markdown

NOT_FIGURES = ("published", "published_same", "block", "timestep", "p")
"""Columns that stay empty where there is nothing; in the others nothing is an undefined figure."""


def to_csv(frame: pd.DataFrame) -> str:
    """A table as csv, undefined figures spelled out."""
    frame = frame.copy()
    for column in frame.columns:
        if pd.api.types.is_float_dtype(frame[column]) and column not in NOT_FIGURES:
            frame[column] = frame[column].round(6).astype(object).where(frame[column].notna(), "undefined")
    return frame.to_csv(index=False, lineterminator="\n")


def make_tables(
    spec: Mapping[str, Any], settings: TablesSettings, runs: Sequence[str | Path], features: Sequence[str | Path]
) -> tuple[dict[str, bytes | str], dict[str, Any]]:
    """All tables and pictures of a study.

    Args:
        spec: the job's spec: cohort, subsets [{name, per_tone}], timestep and blocks of the segmenter, seed.
        settings: bootstrap and published data.
        runs: run folders, or a file in each. features: feature files with K-means pictures.

    Returns:
        File name -> content, and the facts for summary.json. What has no runs has no file.

    Raises:
        UserError: no run at all, or runs of different studies.
    """
    found = read_runs(runs)
    if not (found.segmentation or found.predictions):
        raise UserError("no runs to tabulate. Give the folders of the study's segmenters, probes and baselines.")
    _one_study(found)
    names = {str(subset["name"]): int(subset["per_tone"]) for subset in spec["subsets"]}
    per_tone = dict(sorted(names.items(), key=lambda item: (item[1], item[0])))
    bootstrap = Bootstrap(settings.bootstrap, settings.confidence, int(spec["seed"]))
    context = Context(str(spec["cohort"]), per_tone, bootstrap, settings.published)
    subsets = list(per_tone)
    files: dict[str, bytes | str] = {}
    masks = by_setting(found.segmentation)
    iou, gap, paired = iou_frame(masks, context), gap_frame(masks, context), paired_frame(masks, context)
    if masks:
        files |= {"iou.csv": to_csv(iou), "gap.csv": to_csv(gap)}
        files |= {"learning.png": plots.learning_curves(iou, per_tone), "gap.png": plots.gap_plot(gap, per_tone)}
        picture = masks_picture(masks, subsets[-1])
        files |= {"masks.png": picture} if picture else {}
    if len(paired):
        files["paired.csv"] = to_csv(paired)
    ablation = ablation_frame(found.predictions, context, int(spec["timestep"]))
    compared = chosen_settings(found.predictions, ablation, context)
    classification = classification_frame(compared, context)
    if len(ablation):
        files |= {"ablation.csv": to_csv(ablation), "ablation.png": plots.ablation_plot(ablation, subsets)}
    if len(classification):
        files["classification.csv"] = to_csv(classification)
        files["classification.png"] = plots.classification_plot(classification, per_tone)
        files["roc.png"] = plots.roc_plot(compared, subsets, classification)
    if features:
        photos = {
            name: image["photo"] for run in found.segmentation for name, image in read_pictures(run.folder).items()
        }
        picture = kmeans_picture(features, photos, spec["blocks"])
        files |= {"kmeans.png": picture} if picture else {}
    blocks = blocks_of(iou, gap, paired, classification, context)
    files["table.md"], files["table.tex"] = (write(blocks, settings.confidence) for write in (markdown, latex))
    chosen = ablation[ablation["chosen"]] if len(ablation) else ablation
    facts = {
        "files": sorted(files),
        "cohort": context.cohort,
        "subsets": per_tone,
        "counts": {"segmentation": len(found.segmentation), "classification": len(found.predictions)},
        "chosen_blocks": {
            row.subset: {
                "block": int(row.block),
                "timestep": int(row.timestep),
                "validation_accuracy": round(row.validation, 6),
            }
            for row in chosen.itertuples()
        },
        "tables": [{"title": b.title, "header": list(b.header), "rows": [list(r) for r in b.rows]} for b in blocks],
    }
    return files, facts


def _one_study(runs: StudyRuns) -> None:
    """Tables compare like with like: all segmenters on the same test images, and all classifiers too."""
    first = runs.segmentation[0] if runs.segmentation else None
    for run in runs.segmentation:
        if run.test.images != first.test.images:
            raise UserError(f"{run.folder} and {first.folder}: other test images. Tabulate runs of one study only.")
    tested = {tuple(run.tables["test"]["image_id"]) for run in runs.predictions}
    if len(tested) > 1:
        raise UserError("the classifiers were tested on different images. Tabulate runs of one study only.")
