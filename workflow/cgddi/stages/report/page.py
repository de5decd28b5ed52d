"""The report page: shows what the other stages wrote, and computes nothing of its own."""

from __future__ import annotations

import base64
import io
import json
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import markdown
import numpy as np
import pandas as pd
from PIL import Image

from cgddi.core.archive import Archive, installed_versions, read_member, sha256, write_atomic
from cgddi.core.images import TONES
from cgddi.core.labels import labels_of, with_labels
from cgddi.job.spec import settings_of
from cgddi.stages.report import tables
from cgddi.stages.report.settings import ReportSettings

PER_CELL, THUMBNAIL = 4, 96
"""Pictures per kind and tone on a concept's sheet, and their width in px."""
KINDS = {
    "real": "real photos (training)",
    "semantic": "sampled by the adapter",
    "lesion_mapped": "transplanted lesions",
}
"""Kinds on a concept's sheet, and what the page calls them."""
FAIRNESS_TABLES = {
    "metrics": "All classifiers",
    "by_tone": "By skin tone",
    "by_rarity": "By rarity of the disease",
    "by_disease": "By disease",
    "paired": "Regimes compared on the same test photos",
}
FAIRNESS_PLOTS = {
    "metrics": "Metrics with intervals, and what chance alone would show if tones were equal",
    "roc": "ROC curves by skin tone",
    "calibration": "Calibration",
}
LADDER_TABLES = {"ladder": "The ladder, all figures"}
LADDER_PLOTS = {"ladder": "Figures against the number of synthetic images per real photo; dashed: real photos alone"}
STUDY_PLOTS = {
    "learning": "IoU of the segmenters against the number of training photos, by skin tone, with bootstrap intervals",
    "gap": "The tone gap: lesion IoU on light minus that on dark skin",
    "masks": "Predicted masks of test photos beside the human ones; uncertainty is how much the ensemble's networks disagree",
    "classification": "Malignancy: AUC, and F1 by skin tone, against the number of training photos",
    "ablation": "Accuracy of the malignancy probe by decoder block and timestep; framed: the block chosen on validation",
    "roc": "ROC of the malignancy classifiers on the test photos",
    "kmeans": "K-means (K = 3) of the diffusion model's decoder blocks; the starred ones feed the segmenter",
}
STUDY_TABLES = {
    "iou": "IoU by class and tone, all segmenters",
    "gap": "Tone gap in lesion IoU",
    "paired": "Differences on the same test photos",
    "classification": "Malignancy, all metrics",
    "ablation": "Probe by block and timestep",
}
"""Files beside fairness/summary.json and fedd/tables/summary.json in the order of the page, and their captions."""


def write_page(spec: Mapping[str, Any], files: Namespace, output: str) -> None:
    """Write the report.

    Args:
        spec: the job's spec; its settings are `ReportSettings`.
        files: what the page shows, as the options of `cgddi report` name it.
        output: the page; one file, all pictures inside.
    """
    logs = Path(files.logs)
    page = environment().get_template("page.html").render(
        title=settings_of(ReportSettings, spec).title,
        fairness=shown_folder(files.summary, FAIRNESS_TABLES, FAIRNESS_PLOTS),
        ladder=shown_folder(files.ladder, LADDER_TABLES, LADDER_PLOTS) if files.ladder else None,
        splits=[split_of(path, labels_of(spec)) for path in files.index],
        healthy=healthy_of(files.healthy) if files.healthy else None,
        masks=masks_of(files.masks) if files.masks else None,
        study=study_of(files.fedd) if files.fedd else None,
        kinds=KINDS,
        tones=TONES,
        audits=tables.audit_tables(files.audits),
        adapters={f"{Path(p).parts[-3]} / {Path(p).parts[-2]}": data_uri(p) for p in sorted(files.samples)},
        usage=tables.html(tables.usage(logs), tables.short),
        predicted=tables.plan_and_fact(logs),
        review=os.path.relpath(files.review, Path(output).parent) if files.review else None,
        published=os.path.relpath(files.published, Path(output).parent) if files.published else None,
        spec={name: value for name, value in spec.items() if name != "labels"},
        versions=installed_versions(["cgddi", "snakemake", "torch", "diffusers", "peft", "transformers", "timm"]),
    )  # fmt: skip
    write_atomic(output, page)


def environment() -> jinja2.Environment:
    """Templates of the page; a name that nobody gave is an error."""
    loader = jinja2.PackageLoader("cgddi.stages.report", "templates")
    undefined = jinja2.StrictUndefined
    return jinja2.Environment(loader=loader, autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True)


def data_uri(picture: bytes | str | Path, width: int | None = None) -> str:
    """A picture (PNG bytes or a file) as a PNG data URI, scaled to `width` px across where that is given."""
    data = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
    if width is not None:
        with Image.open(io.BytesIO(data)) as image:
            small = image.resize((width, max(1, round(image.height * width / image.width))), Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        small.save(buffer, "PNG", optimize=True)
        data = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(data).decode()


def shown_folder(summary: str, csvs: Mapping[str, str], pngs: Mapping[str, str]) -> dict[str, Any]:
    """What lies beside a summary.json: table.md, and tables and plots by caption; one that is not there or empty is left out."""
    folder = Path(summary).parent
    text = (folder / "table.md").read_text(encoding="utf-8")
    tabled = {caption: folder / f"{name}.csv" for name, caption in csvs.items()}
    plotted = {caption: folder / f"{name}.png" for name, caption in pngs.items()}
    return {
        "table": markdown.markdown(text, extensions=["tables"]),
        "tables": {
            caption: tables.html(pd.read_csv(path))
            for caption, path in tabled.items()
            if path.is_file() and path.read_text(encoding="utf-8").strip()
        },
        "plots": {caption: data_uri(path) for caption, path in plotted.items() if path.is_file()},
    }


def study_of(summary: str) -> dict[str, Any]:
    """The FEDD study: its cohort, tables and plots."""
    shown = shown_folder(summary, STUDY_TABLES, STUDY_PLOTS)
    shown["table"] = shown["table"].replace(" (published", "<br>(published")
    return {**shown, "cohort": json.loads(Path(summary).read_text(encoding="ascii"))["cohort"]}


def split_of(path: str, labels: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """One split: its record, counts, and a sheet of pictures per concept (kind -> tone -> data URIs); test photos have `labels`."""
    index = with_labels(pd.read_parquet(path), labels)
    sheets = {}
    for slug in sorted(index.loc[index["kind"] == "semantic", "concept"].unique()):
        mine = index[(index["concept"] == slug) & (index["role"] == "train")]
        sheets[slug] = {
            kind: {tone: _pictures(mine[(mine["kind"] == kind) & (mine["tone"] == tone)]) for tone in TONES}
            for kind in KINDS
        }
    record = json.loads(Path(path).with_suffix(".json").read_text(encoding="ascii"))
    return {"name": Path(path).stem, "record": record, "counts": tables.counts(index), "sheets": sheets}


def _pictures(rows: pd.DataFrame) -> list[str]:
    """Thumbnails of at most `PER_CELL` rows, drawn by the hash of their names so that the page shows the same ones each time."""
    order = np.argsort([sha256(name) for name in rows["id"]])[:PER_CELL]
    chosen = rows.iloc[np.sort(order)]
    return [data_uri(read_member(row.archive, row.start, row.size), THUMBNAIL) for row in chosen.itertuples()]


def healthy_of(path: str) -> dict[str, Any]:
    """Examples by tone (before, after, baseline, verdict) and the comparison of both methods, from audit/healthy."""
    archive = Archive(path)
    examples: dict[str, list[list[str]]] = {tone: [] for tone in TONES}
    for row in archive.rows:
        shown = [data_uri(archive.read(row, part), THUMBNAIL) for part in ("before.png", "png", "baseline.png")]
        examples[row["tone"]].append([*shown, row["verdict"]])
    return {"examples": examples, "comparison": tables.comparison_table(archive.record["comparison"])}


def masks_of(path: str) -> dict[str, Any]:
    """Tables by caption, sources and examples by tone (photo, mask, uncertainty or "", text), from audit/masks."""
    archive = Archive(path)
    examples: dict[str, list[list[str]]] = {tone: [] for tone in TONES}
    for row in archive.rows:
        parts = [part if part in row["members"] else None for part in ("png", "overlay.png", "heat.png")]
        shown = [data_uri(archive.read(row, part), THUMBNAIL) if part else "" for part in parts]
        flags = ", ".join(row["flags"]) or "no flags"
        text = f"{row['mask_source']}: {flags}" if row["has_mask"] else f"not used: {flags}"
        examples[row["tone"]].append([*shown, text])
    facts = archive.record
    return {"tables": tables.mask_tables(facts), "sources": facts["sources"], "examples": examples}
