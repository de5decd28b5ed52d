"""One line before a costly surprise: a cohort that has grown or shrunk makes finished generation jobs run again."""

from __future__ import annotations

import json
from pathlib import Path

from cgddi.plan.plan import Plan


def grown_cohorts(plan: Plan) -> list[str]:
    """What growing or shrinking a finished cohort costs: a line for each whose canvases are no longer those that were pooled.

    Args:
        plan: the plan; its results folder is looked at.

    Returns:
        Lines with the count of finished jobs that will run again, and the remedy; empty when no cohort has changed.
    """
    results = Path(plan.config.results)
    lines = []
    for cohort in plan.canvas_cohorts:
        try:
            pooled = json.loads((results / "canvases" / f"{cohort}.json").read_text())["inputs"]
            before = {
                image
                for manifest in pooled
                for image in json.loads(Path(manifest).with_suffix(".json").read_text())["spec"]["images"]
            }
        except (OSError, ValueError, KeyError):
            continue
        now = {image for images in plan.healthy_batches[cohort].values() for image in images}
        if now == before:
            continue
        stale = [*results.glob(f"lesion_mapped/{cohort}/*.jsonl"), *results.glob(f"semantic/*/{cohort}/*.jsonl")]
        if cohort == plan.canvas_cohorts[0]:
            stale += results.glob("lora/*/*/record.json")
        cost = f"masked photo(s): {len(stale)} finished mapping, adapter and sampling jobs use its canvases and will run again. "
        if now - before:
            lines.append(
                f"Cohort {cohort} has grown by {len(now - before)} {cost}To keep them, give the new photos a cohort of their own "
                "(`cgddi ingest --append` does)."
            )
        if before - now and not plan.config.only_concepts:
            lines.append(
                f"Cohort {cohort} has lost {len(before - now)} {cost}To take a disease out of the results without that, keep its "
                "rows and name it in `drop_concepts`."
            )
    return lines
