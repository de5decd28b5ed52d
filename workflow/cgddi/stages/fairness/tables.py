"""The side-by-side table in Markdown and LaTeX: ours with intervals, the published figures beneath, counts and marks."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from cgddi.core.figures import md_row, tex_text
from cgddi.core.images import TONES
from cgddi.stages.fairness.frames import RARITIES
from cgddi.stages.fairness.settings import FairnessSettings

ACCURACY_COLUMNS = (("accuracy", "all", "Mean"), *(("accuracy", tone, tone.capitalize()) for tone in TONES))
FAIRNESS_COLUMNS = (("auc", "all", "AUC"), ("pqd", "all", "PQD"), ("dpm", "all", "DPM"), ("eom", "all", "EOM"))
COLUMNS = (*ACCURACY_COLUMNS, *FAIRNESS_COLUMNS)
RARITY_COLUMNS = tuple(("accuracy", rarity, rarity.capitalize()) for rarity in RARITIES)
SIGNS = {
    "epoch chosen on the test images": "†",
    "leakage gate waived: training images touch held-out images": "‡",
    "learning curve: generators or starting weights saw real images outside the subset": "§",
}
ZERO_WIDTH = (
    "an interval of zero width means that every resample gave the same value, not that the value is certain: see wilson_low and "
    "wilson_high in metrics.csv"
)


def signs(marks: str) -> str:
    """The signs of a cell of column `marks`."""
    return "".join(SIGNS[mark] for mark in marks.split("; ") if mark)


def rows_of(
    metrics: pd.DataFrame, columns: Sequence[tuple[str, str, str]] = COLUMNS
) -> tuple[list[list[str]], list[str]]:
    """Cells of a table (per cent) and its footnotes.

    Args:
        metrics: see `cgddi.stages.fairness.frames.metrics_frame`.
        columns: (metric, group, heading) of each column.
    """
    lines, notes = [], []
    for (split, regime, method), part in metrics.groupby(["split", "regime", "method"], sort=False):
        first = part.iloc[0]
        marks = [mark for mark in first["marks"].split("; ") if mark]
        notes += [f"{SIGNS[mark]} {mark}" for mark in marks]
        cells = {(row.metric, row.group): row for row in part.itertuples(index=False)}
        if any(
            row.value != "undefined" and row.low == row.high
            for row in (cells[c[:2]] for c in columns if c[:2] in cells)
        ):
            notes.append(ZERO_WIDTH)
        name = f"{split}: {method}, {regime}{signs(first['marks'])}"
        lines.append([name, f"{first['runs']}", *(_cell(cells.get(column[:2])) for column in columns)])
        published = [_published(cells.get(column[:2])) for column in columns]
        if any(published):
            lines.append([f"published: {method}, {regime}", "", *published])
        else:
            notes.append(f"{split}: {method}, {regime}: no published figure for this setting")
    return lines, list(dict.fromkeys(notes))


def rarity_rows(by_rarity: pd.DataFrame) -> list[list[str]]:
    """Cells of the table of accuracy by rarity of the disease (per cent), published figures beneath ours.

    Args:
        by_rarity: see `cgddi.stages.fairness.frames.by_rarity_frame`.
    """
    overall = by_rarity[by_rarity["group"] == "all"]
    return rows_of(overall.assign(group=overall["rarity"]), RARITY_COLUMNS)[0]


def _cell(row) -> str:
    if row is None:
        return ""
    if row.value == "undefined":
        return "undefined"
    return f"{100 * row.value:.1f} ({100 * row.low:.1f}-{100 * row.high:.1f})"


def _published(row) -> str:
    return "" if row is None or pd.isna(row.published) else f"{100 * row.published:.1f}"


def count_lines(metrics: pd.DataFrame) -> list[str]:
    """One line per split: test images and classes by tone."""
    lines = []
    for split, part in metrics[metrics["metric"] == "accuracy"].groupby("split", sort=False):
        cells = []
        for row in part.drop_duplicates("group").to_dict("records"):
            classes = [
                f"{int(value)} {key.removeprefix('images_')}"
                for key, value in row.items()
                if key.startswith("images_") and not pd.isna(value)
            ]
            cells.append(f"{row['group']} {int(row['images'])}" + (f" ({', '.join(classes)})" if classes else ""))
        lines.append(f"{split}: test images {'; '.join(cells)}")
    return lines


def flip_lines(metrics: pd.DataFrame) -> list[str]:
    """How far one flipped prediction moves EOM, by setting."""
    lines = []
    for (split, regime, method), part in metrics.groupby(["split", "regime", "method"], sort=False):
        value = part.set_index("metric")["value"]
        low, high = value["eom_lowest_under_one_flip"], value["eom_highest_under_one_flip"]
        if low != "undefined":
            now = part[part["metric"] == "eom"]["value"].iloc[0]
            lines.append(
                f"{split}, {method}, {regime}: EOM {100 * now:.1f} becomes {100 * low:.1f} to {100 * high:.1f}"
            )
    return lines


def markdown(metrics: pd.DataFrame, by_rarity: pd.DataFrame, options: FairnessSettings) -> str:
    """The tables as Markdown, with notes, counts and the effect of one flipped image."""
    lines, notes = rows_of(metrics)
    header = ["Setting", "Runs", *(name for *_, name in COLUMNS)]
    text = [f"## {options.title}", ""] if options.title else []
    text.append(f"Per cent; in brackets the {100 * options.confidence:.0f}% interval over test images{_runs(options)}.")
    text += ["", md_row(header), md_row(["---"] * len(header)), *(md_row(line) for line in lines), ""]
    header = ["Accuracy by rarity of the disease", "Runs", *(name for *_, name in RARITY_COLUMNS)]
    text += [md_row(header), md_row(["---"] * len(header)), *(md_row(line) for line in rarity_rows(by_rarity)), ""]
    for heading, items in (
        ("Notes", notes),
        ("Counts", count_lines(metrics)),
        ("EOM after one flipped prediction", flip_lines(metrics)),
    ):
        if items:
            text += [f"**{heading}**", "", *(f"- {item}" for item in items), ""]
    return "\n".join(text)


def _runs(options: FairnessSettings) -> str:
    return " and runs" if options.resample_runs else ""


def latex(metrics: pd.DataFrame, by_rarity: pd.DataFrame, options: FairnessSettings) -> str:
    """Two LaTeX tables (booktabs): the figures, notes and counts beneath them; and accuracy by rarity of the disease."""
    lines, notes = rows_of(metrics)
    title = f"{options.title}. " if options.title else ""
    about = f"{title}Per cent, with {100 * options.confidence:.0f}% intervals over test images{_runs(options)}."
    caption = " ".join([about, *(f"{line}." for line in [*notes, *count_lines(metrics)])])
    rarity = f"{about} Accuracy by rarity of the disease."
    return _tabular(COLUMNS, lines, caption) + _tabular(RARITY_COLUMNS, rarity_rows(by_rarity), rarity)


def _tabular(columns, lines, caption: str) -> str:
    text = [r"\begin{table}", r"\centering", r"\begin{tabular}{l" + "r" * (len(columns) + 1) + "}", r"\toprule"]
    text.append(" & ".join(["Setting", "Runs", *(name for *_, name in columns)]) + r" \\")
    text += [r"\midrule", *(" & ".join(tex_text(cell) for cell in line) + r" \\" for line in lines), r"\bottomrule"]
    return "\n".join([*text, r"\end{tabular}", rf"\caption{{{tex_text(caption)}}}", r"\end{table}", ""])
