"""The page: a table per published one, a row per setting, and in each cell the published figure, ours and their difference."""

import base64
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from cgddi.core.published import TABLES, Table
from cgddi.stages.published.compare import MEASURED

FEDD = Table(
    "FEDD: segmentation (IoU) and malignancy from diffusion features",
    "",
    (
        "The text has ten test photos a tone, the published folder 16 in all: one photo moves F1 by several points.",
        "The published 198 masks of the larger test hold the 16 of the small one. Which of the classes its IoU is of was not told; "
        "the mean is taken for it.",
        "F1 was taken at the threshold that is best on the test photos; ours at 0.5.",
    ),
)
SHARES = ("accuracy", "pqd", "dpm", "eom", "without room")
"""Figures shown in per cent."""
ABBREVIATED = ("auc", "f1", "pqd", "dpm", "eom", "fid", "kid", "lpips")
DIGITS = {"images": 0, "kid": 3, "lpips": 3}
"""Digits of other figures behind the point, where not two."""
NAMES = {
    "baseline": "Baseline (ResNet-18)",
    "fairdisco": "FairDisCo",
    "patchalign": "PatchAlign",
    "fedd": "FEDD",
    "deepderm": "DeepDerm",
    "real": "real photos",
    "synthetic_real": "synthetic, then real",
    "healthy_mapped": "healthy and lesion-mapped",
    "lesion_mapped": "lesion-mapped",
}
"""Method or regime -> how the page calls it, where not by its own name."""
BLOCKS = {"images": "Images", "without room": "Images", "fid": "FID", "kid": "KID", "lpips": "LPIPS"}
"""Metric -> heading of the part of a table that it stands in; others stand in the first."""
FEDD_BLOCKS = {
    "iou": "Masks: IoU on the small test",
    "classification": "Malignancy on the small test: AUC, and F1 by tone",
    "further": "All further photos: FEDD minus the next best network",
}
FEDD_FIGURES = {
    "roc": "ROC on the test photos",
    "ablation": "Accuracy by decoder block and timestep; the framed block was chosen on validation photos",
    "masks": "Masks of test photos",
    "kmeans": "K-means of the blocks' features",
}
"""Pictures of the study's tables that were published too."""


def render(cells: pd.DataFrame, table: str | None, fedd: Path | None = None) -> str:
    """The page as HTML.

    Args:
        cells: see `cgddi.stages.published.compare`. table: the only table shown; None shows those of which the run has figures.
        fedd: folder of the study's tables, whose figures are shown.
    """
    loader = jinja2.PackageLoader("cgddi.stages.published", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = []
    for name, part in cells.groupby("table", sort=False):
        if table == name or (table is None and part["value"].notna().any()):
            shown.append(matrix(part, TABLES.get(name, FEDD)) | {"figures": _figures(fedd) if name == "fedd" else []})
    return environment.get_template("page.html").render(tables=shown, table=table)


def matrix(part: pd.DataFrame, about: Table) -> dict[str, Any]:
    """One table as the template shows it: notes, its parts with columns and rows of cells, and what the marks mean."""
    part = part.astype(object).where(part.notna(), None)
    fedd = part["table"] == "fedd"
    heads = part["metric"].map(BLOCKS).fillna("").where(~fedd, part["setting"].map(FEDD_BLOCKS))
    marks: dict[str, int] = {}
    parts = [{"title": head, **_part(own, marks)} for head, own in part.groupby(heads, sort=False)]
    return {"title": about.title, "notes": about.notes, "parts": parts, "marks": list(marks)}


def _figures(folder: Path | None) -> list[tuple[str, str]]:
    """(caption, picture as base64 of a PNG) of the study's figures that are there."""
    found = {caption: folder / f"{name}.png" for name, caption in FEDD_FIGURES.items()} if folder else {}
    return [
        (caption, base64.b64encode(path.read_bytes()).decode()) for caption, path in found.items() if path.is_file()
    ]


def _part(part: pd.DataFrame, marks: dict[str, int]) -> dict[str, Any]:
    """Columns and rows of one part; `marks` (what differs -> its number) grows."""
    columns = list(dict.fromkeys(zip(part["metric"], part["group"], strict=True)))
    rows = []
    for (train, test, method, regime), own in part.groupby(["train", "test", "method", "regime"], sort=False):
        data = train if train == test else f"{train} → {test}"
        found = {(row["metric"], row["group"]): cell(row) for row in own.to_dict("records")}
        differs = list(dict.fromkeys(text for cells in own["differs"] if cells for text in cells.split("; ")))
        numbers = [marks.setdefault(text, len(marks) + 1) for text in differs]
        name = ", ".join(NAMES.get(word, word) for word in (method, regime) if word)
        told = [data, *_counts(own)]
        rows.append({"name": name, "told": "; ".join(told), "marks": numbers, "cells": [found.get(c) for c in columns]})
    heads = [metric.split(", over the next")[0] for metric, _ in columns]
    heads = [head.upper() if head in ABBREVIATED else head for head in heads]
    heads = [head if group == "all" else f"{head}, {group}" for head, (_, group) in zip(heads, columns, strict=True)]
    return {"columns": heads, "rows": rows}


def _counts(rows: pd.DataFrame) -> list[str]:
    """Which runs of ours a row shows, and on how many images."""
    ours = rows[rows["setting"].notna()]
    if not len(ours) or ours["metric"].iloc[0] in MEASURED:
        return []
    whose = [] if ours["table"].iloc[0] == "fedd" else [f"ours: {ours['setting'].iloc[0]}"]
    most = {key: ours[key].max() for key in ("runs", "images") if ours[key].notna().any()}
    counts = [f"{int(count)} {key[: -1 if count == 1 else None]}" for key, count in most.items()]
    return [*whose, ", ".join(counts)] if counts else whose


def cell(row: dict[str, Any]) -> dict[str, Any]:
    """Texts of one figure: published, ours, difference; `away` where the published value lies outside our interval."""
    times, digits = (100, 1) if row["metric"] in SHARES else (1, DIGITS.get(row["metric"], 2))

    def text(value: float | None, sign: str = "") -> str:
        return "" if value is None else f"{times * value:{sign}z,.{digits}f}"

    published = text(row["published"]) + (
        f" ± {text(row['published_std'])}" if row["published_std"] is not None else ""
    )
    if row["value"] is None:
        missing = "not run" if row["setting"] is None else "undefined"
        return {"published": published, "ours": missing, "difference": "", "away": False}
    interval = f" ({text(row['low'])} to {text(row['high'])})" if row["low"] is not None else ""
    away = row["low"] is not None and not row["low"] <= row["published"] <= row["high"]
    return {
        "published": published,
        "ours": text(row["value"]) + (f" ± {text(row['std'])}" if row["std"] is not None else "") + interval,
        "difference": text(row["difference"], "+"),
        "away": away,
    }
