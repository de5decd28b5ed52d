"""Markdown and plot of figures pooled over data sets."""

from __future__ import annotations

import pandas as pd

from cgddi.core.figures import plt, png
from cgddi.stages.fairness.tables import ACCURACY_COLUMNS, FAIRNESS_COLUMNS, RARITY_COLUMNS, SIGNS, signs

COLUMNS = (*ACCURACY_COLUMNS, *RARITY_COLUMNS, *FAIRNESS_COLUMNS)


def markdown(table: pd.DataFrame, tests: pd.DataFrame, confidence: float) -> str:
    """Two tables: figures with intervals, and paired differences with p; per cent.

    Args:
        table: see `cgddi.stages.fairness.pooled.pooled`. tests: see `pooled.differences`. confidence: coverage.
    """
    about = f"{100 * confidence:.0f}% interval over data sets (Student)"
    lines = [
        f"Per cent; in brackets the {about}.",
        "",
        _row(["Setting", "Data sets", "Runs", *(c[2] for c in COLUMNS)]),
    ]
    lines.append(_row(["---"] * (len(COLUMNS) + 3)))
    for (method, regime), part in table.groupby(["method", "regime"], sort=False):
        cells = {(row.metric, row.group): row for row in part.itertuples(index=False)}
        first = part.iloc[0]
        name = f"{method}, {regime}{signs(first['marks'])}"
        figures = [_cell(cells.get(column[:2]), "value") for column in COLUMNS]
        lines.append(_row([name, str(first["datasets"]), str(first["runs"]), *figures]))
    marks = dict.fromkeys(mark for text in table["marks"] for mark in text.split("; ") if mark)
    lines += ["", *(f"{SIGNS[mark]} {mark}" for mark in marks), *([""] if marks else [])]
    lines += [
        f"Differences paired by data set, in points, with the {about}; p: Student's paired test, exact sign flips.",
        "",
    ]
    lines += [_row(["Difference", "Figure", "Points", "Better in", "p, Student", "p, sign flips"]), _row(["---"] * 6)]
    for row in tests.itertuples(index=False):
        figure = row.metric if row.group == "all" else f"{row.metric}, {row.group}"
        undefined = row.difference == "undefined"
        p = ["undefined"] * 2 if undefined else [_p(row.p_t), _p(row.p_sign_flips)]
        name = f"{row.method}: {row.first} - {row.second}"
        lines.append(_row([name, figure, _cell(row, "difference"), f"{row.first_better} of {row.datasets}", *p]))
    return "\n".join([*lines, ""])


def _p(value: float) -> str:
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def _cell(row, name: str) -> str:
    value = None if row is None else getattr(row, name)
    if value is None or value == "undefined":
        return value or ""
    sign = "+" if name == "difference" else ""
    brackets = "" if pd.isna(row.low) else f" ({100 * row.low:.1f} to {100 * row.high:.1f})"
    return f"{100 * value:{sign}.1f}{brackets}"


def _row(cells) -> str:
    return "| " + " | ".join(cells) + " |"


def plot(datasets: pd.DataFrame, table: pd.DataFrame) -> bytes:
    """Each figure of each regime with its interval, and in grey every data set, its regimes joined by a line; PNG bytes.

    Args:
        datasets: see `cgddi.stages.fairness.pooled.by_dataset`. table: see `cgddi.stages.fairness.pooled.pooled`.
    """
    names = list(dict.fromkeys(zip(table["method"], table["regime"], strict=True)))
    figure, axes = plt.subplots(2, 6, figsize=(17, 7), layout="constrained")
    for axis in axes.flat[len(COLUMNS) :]:
        axis.axis("off")
    for axis, (metric, group, title) in zip(axes.flat, COLUMNS, strict=False):
        part = datasets[(datasets["metric"] == metric) & (datasets["group"] == group)]
        for _, line in part.groupby("dataset", sort=False):
            places = [names.index(name) for name in zip(line["method"], line["regime"], strict=True)]
            axis.plot(places, line["value"], "o-", c="#bbbbbb", ms=3, lw=0.8)
        for row in table[(table["metric"] == metric) & (table["group"] == group)].itertuples(index=False):
            place = names.index((row.method, row.regime))
            if row.value == "undefined":
                axis.text(place, 0.5, "undefined", ha="center", rotation=90, fontsize=7)
                continue
            axis.plot([place, place], [row.low, row.high], c="black", lw=1.5)
            axis.plot(place, row.value, "o", c="black", ms=5)
        axis.set(title=title if metric != "accuracy" else f"accuracy, {title.lower()}", xlim=(-0.5, len(names) - 0.5))
        axis.set_xticks(range(len(names)), [" / ".join(name) for name in names], fontsize=7, rotation=20, ha="right")
        axis.grid(axis="y", lw=0.3)
    return png(figure)
