"""The report page, filled from what the other stages wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from pydantic import ValidationError

from cgddi.artefacts import installed_versions, write_atomic
from cgddi.errors import UserError
from cgddi.images import TONES
from cgddi.report.pictures import KINDS, contact_sheet, data_uri, healthy_pairs
from cgddi.report.settings import ReportSettings

TABLES = {
    "metrics": "All classifiers",
    "by_tone": "By skin tone",
    "by_rarity": "By rarity of the disease",
    "by_disease": "By disease",
    "paired": "Regimes compared on the same test photos",
}
"""Tables beside fairness/summary.json, and their captions on the page."""

PLOTS = {
    "metrics": "Metrics with bootstrap intervals",
    "roc": "ROC curves by skin tone",
    "calibration": "Calibration",
}


def counts(index: pd.DataFrame) -> pd.DataFrame:
    """Images by kind and role (rows), tone and malignancy (columns)."""
    label = index["malignant"].map({True: "malignant", False: "benign"}).astype(object).fillna("unlabelled")
    table = pd.crosstab([index["kind"], index["role"]], [index["tone"], label])
    table = table.reindex([tone for tone in TONES if tone in table.columns.get_level_values(0)], axis=1, level=0)
    table["all"] = table.sum(axis=1)
    return table


def usage(logs: Path) -> pd.DataFrame:
    """What the jobs used, by stage, from their metrics files: jobs, hours, highest device memory, images and steps."""
    rows = []
    for path in sorted(logs.rglob("*.metrics.jsonl")):
        lines = path.read_text().splitlines()
        if lines:
            rows.append({"stage": path.relative_to(logs).parts[0], **json.loads(lines[-1])})
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(rows)
    for column in ("images", "steps", "peak_device_bytes"):
        if column not in frame:
            frame[column] = 0
    grouped = frame.groupby("stage")
    return pd.DataFrame(
        {
            "jobs": grouped.size(),
            "minutes": (grouped["seconds"].sum() / 60).round(1),
            "longest job, s": grouped["seconds"].max().round(1),
            "images": grouped["images"].sum().astype(int),
            "steps": grouped["steps"].sum().astype(int),
            "peak device memory, GB": (grouped["peak_device_bytes"].max() / 1e9).round(2),
        }
    ).reset_index()


def write_page(
    spec: dict[str, Any],
    logs: str,
    summary: str,
    audits: Sequence[str],
    indexes: Sequence[str],
    samples: Sequence[str],
    review: str,
    healthy: Sequence[str],
    output: str,
) -> None:
    """Write the report.

    Args:
        spec: the job's spec; its settings are `ReportSettings`.
        logs: folder of the jobs' logs.
        summary: fairness/summary.json; tables (csv) and plots (png) lie beside it.
        audits: audit/<split>/<kind>.json.
        indexes: index/<split>.parquet.
        samples: contact sheets the lora stage made.
        review: the review page, linked.
        healthy: healthy archives, for pictures before and after.
        output: the page; one file, all pictures inside.
    """
    try:
        settings = ReportSettings.model_validate(spec["settings"])
    except ValidationError as error:
        raise UserError(f"report settings: {error}") from None
    fairness = Path(summary).parent
    splits = []
    for path in indexes:
        index = pd.read_parquet(path)
        slugs = sorted(index.loc[index["kind"] == "semantic", "concept"].unique())
        splits.append(
            {
                "name": Path(path).stem,
                "record": json.loads(Path(path).with_suffix(".json").read_text()),
                "counts": counts(index).to_html(border=0),
                "sheets": {
                    slug: contact_sheet(index, slug, settings.images_per_cell, settings.thumbnail, spec["seed"])
                    for slug in slugs
                },
            }
        )
    page = (
        _environment()
        .get_template("page.html")
        .render(
            title=settings.title,
            summary=json.loads(Path(summary).read_text()),
            tables={
                caption: pd.read_csv(fairness / f"{name}.csv").to_html(
                    index=False, border=0, na_rep="", float_format="%.3f"
                )
                for name, caption in TABLES.items()
            },
            plots={caption: data_uri(fairness / f"{name}.png") for name, caption in PLOTS.items()},
            splits=splits,
            pairs=healthy_pairs(healthy, 2 * settings.images_per_cell, settings.thumbnail, spec["seed"]),
            kinds=KINDS,
            tones=TONES,
            audits=[
                {"split": Path(p).parent.name, "kind": Path(p).stem, **json.loads(Path(p).read_text())}
                for p in sorted(audits)
            ],
            adapters=[
                {"name": f"{Path(p).parts[-3]} / {Path(p).parts[-2]}", "picture": data_uri(p)} for p in sorted(samples)
            ],
            usage=usage(Path(logs)).to_html(index=False, border=0),
            review=os.path.relpath(review, Path(output).parent),
            spec=spec,
            versions=installed_versions(["cgddi", "snakemake", "torch", "diffusers", "peft", "transformers", "timm"]),
        )
    )
    write_atomic(output, page)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("cgddi.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
