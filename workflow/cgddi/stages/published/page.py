"""The page: a table per published one, a row per setting, and in each cell the published figure, ours and their difference."""

from __future__ import annotations

from typing import Any

import jinja2
import pandas as pd

from cgddi.core.published import TABLES, Table

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


def render(cells: pd.DataFrame, table: str | None) -> str:
    """The page as HTML.

    Args:
        cells: see `cgddi.stages.published.compare`. table: the only table shown; None shows those of which the run has figures.
    """
    loader = jinja2.PackageLoader("cgddi.stages.published", "templates")
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    shown = []
    for name, part in cells.groupby("table", sort=False):
        if table == name or (table is None and part["value"].notna().any()):
            shown.append(matrix(part, TABLES.get(name, FEDD)))
    return environment.get_template("page.html").render(tables=shown, table=table)


def matrix(part: pd.DataFrame, about: Table) -> dict[str, Any]:
    """One table as the template shows it: notes, columns, rows of cells, and what the marks mean."""
    part = part.astype(object).where(part.notna(), None)
    columns = list(dict.fromkeys(zip(part["metric"], part["group"], strict=True)))
    marks: dict[str, int] = {}
    rows = []
    for (train, test, method, regime), own in part.groupby(["train", "test", "method", "regime"], sort=False):
        data = train if train == test else f"{train} → {test}"
        found = {(row["metric"], row["group"]): cell(row) for row in own.to_dict("records")}
        differs = list(dict.fromkeys(text for cells in own["differs"] if cells for text in cells.split("; ")))
        numbers = [marks.setdefault(text, len(marks) + 1) for text in differs]
        setting = next((row for row in own["setting"] if row), None)
        name = ", ".join(filter(None, (method, regime.replace("_", " "))))
        rows.append(
            {"name": name, "data": data, "setting": setting, "marks": numbers, "cells": [found.get(c) for c in columns]}
        )
    heads = [metric.upper() if metric in ABBREVIATED else metric for metric, _ in columns]
    heads = [head if group == "all" else f"{head}, {group}" for head, (_, group) in zip(heads, columns, strict=True)]
    return {"title": about.title, "notes": about.notes, "columns": heads, "rows": rows, "marks": list(marks)}


def cell(row: dict[str, Any]) -> dict[str, Any]:
    """Texts of one figure: published, ours, difference; `away` where the published value lies outside our interval."""
    times, digits = (100, 1) if row["metric"] in SHARES else (1, DIGITS.get(row["metric"], 2))

    def text(value: float | None, sign: str = "") -> str:
        return "" if value is None else f"{times * value:{sign},.{digits}f}"

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
        "ours": text(row["value"]) + interval,
        "difference": text(row["difference"], "+"),
        "away": away,
    }
