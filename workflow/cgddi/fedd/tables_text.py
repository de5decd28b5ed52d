"""The study's tables for reading: Markdown and LaTeX, with intervals, counts and the published figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cgddi.core.figures import md_row, tex_text
from cgddi.core.images import TONES
from cgddi.fedd.iou_tables import Context
from cgddi.fedd.plots import name_of

OTHER_DATA = "‡"


@dataclass(frozen=True)
class Block:
    """One table: its title, header, rows of text, and notes beneath."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def cell(value: float, low: float, high: float, published: float | None = None, same: bool | None = None) -> str:
    """A figure as text: value, interval, and the published figure where there is one."""
    text = "undefined" if not np.isfinite(value) else f"{value:.2f} [{low:.2f}, {high:.2f}]"
    if published is not None and np.isfinite(published):
        text += f" (published {published:.2f}{'' if same is True else OTHER_DATA})"
    return text


def _cells(part: pd.DataFrame, key: str, value: str, wanted: Sequence[tuple[str, str]]) -> list[str]:
    found = {(row[key], row["tone"]): row for row in part.to_dict("records")}
    return [
        cell(row[value], row["low"], row["high"], row["published"], row["published_same"])
        for row in (found[name] for name in wanted)
    ]


def blocks_of(
    iou: pd.DataFrame, gap: pd.DataFrame, paired: pd.DataFrame, classification: pd.DataFrame, context: Context
) -> list[Block]:
    """The tables of a study, those that have rows."""
    found = []
    if len(iou):
        found.append(_segmentation(iou, gap, context))
    if len(paired):
        found.append(_paired(paired))
    if len(classification):
        found.append(_classification(classification))
    return found


def _segmentation(iou: pd.DataFrame, gap: pd.DataFrame, context: Context) -> Block:
    wanted = [("mean", "all"), ("lesion", "all"), *(("lesion", tone) for tone in TONES)]
    tones = [f"Lesion, {tone}" for tone in TONES]
    header = ["Segmenter", "Subset", "Runs", "Mean IoU", "Lesion IoU", "Light - dark", *tones]
    gaps = gap.set_index(["model", "variant", "subset"])
    rows = []
    for key, part in iou.groupby(["model", "variant", "subset"], sort=False):
        mine = gaps.loc[key]
        between = cell(mine["gap"], mine["low"], mine["high"], mine["published"], mine["published_same"])
        overall, by_tone = _cells(part, "class", "iou", wanted[:2]), _cells(part, "class", "iou", wanted[2:])
        rows.append([name_of(*key[:2]), key[2], str(part["runs"].iloc[0]), *overall, between, *by_tone])
    first = iou[iou["class"] == "lesion"].drop_duplicates("tone").set_index("tone")
    counts = ", ".join(f"{tone} {first.loc[tone, 'images']} ({first.loc[tone, 'truth']} lesion px)" for tone in TONES)
    notes = [f"Test images: {counts}.", _sizes(context)]
    return Block("Segmentation", header, rows, notes + _marks(iou))


def _paired(paired: pd.DataFrame) -> Block:
    wanted = [("gap", "light-dark"), ("lesion", "all"), ("mean", "all")]
    rows = []
    for (subset, second), part in paired.groupby(["subset", "second"], sort=False):
        found = {(row["metric"], row["tone"]): row for row in part.to_dict("records")}
        cells = []
        for key in wanted:
            row = found[key]
            p = f", p {row['p']:.3f}" if np.isfinite(row["p"]) else ""
            cells.append(cell(row["difference"], row["low"], row["high"]) + p)
        rows.append(
            [f"{name_of('fedd', second[5:]) if second.startswith('fedd ') else name_of(second)}", subset, *cells]
        )
    header = ["Minus FEDD plain", "Subset", "Light - dark gap of lesion IoU", "Lesion IoU", "Mean IoU"]
    note = "Differences on the same test images; each bootstrap replicate draws the same images for both."
    return Block("Differences from FEDD plain", header, rows, [note])


def _classification(table: pd.DataFrame) -> Block:
    wanted = [("auc", "all"), *(("f1", tone) for tone in TONES), ("accuracy", "all")]
    header = ["Classifier", "Subset", "Block", "Runs", "AUC", *(f"F1, {tone}" for tone in TONES), "Accuracy"]
    rows = []
    for (model, subset), part in table.groupby(["model", "subset"], sort=False):
        first = part.iloc[0]
        block = "" if pd.isna(first["block"]) else f"{int(first['block'])} (t={int(first['timestep'])})"
        cells = _cells(part, "metric", "value", wanted)
        rows.append([name_of(model, segments=False), subset, block, str(first["runs"]), *cells])
    first = table.drop_duplicates("tone").set_index("tone")
    counts = ", ".join(f"{t} {first.loc[t, 'images']} ({first.loc[t, 'malignant']} malignant)" for t in TONES)
    notes = [f"Test images: {counts}.", "Blocks are chosen by accuracy on the validation images."]
    other = {model: limit for model, limit in zip(table["model"], table["threshold"], strict=True) if limit != 0.5}
    notes += [
        f"{name_of(model, segments=False)}: malignant from a probability of {limit:g}."
        for model, limit in other.items()
    ]
    return Block("Malignancy", header, rows, notes + _marks(table))


def _sizes(context: Context) -> str:
    return "Training photos per tone: " + ", ".join(f"{name}: {n}" for name, n in context.per_tone.items()) + "."


def _marks(table: pd.DataFrame) -> list[str]:
    flags = [
        flag is True for flag, value in zip(table["published_same"], table["published"], strict=True) if pd.notna(value)
    ]
    if not flags or all(flags):
        return []
    return [
        f"{OTHER_DATA} reached on other data or with other subsets (DDI; FEDD, MICCAI 2023): not comparable, for orientation."
    ]


def markdown(blocks: Sequence[Block], confidence: float) -> str:
    """All tables as Markdown."""
    lines = [f"In brackets: {100 * confidence:.0f}% intervals over test images and seeds.", ""]
    for block in blocks:
        lines += [f"### {block.title}", "", md_row(block.header), md_row(["---"] * len(block.header))]
        lines += [*(md_row(row) for row in block.rows), "", *(f"- {note}" for note in block.notes), ""]
    return "\n".join(lines)


def latex(blocks: Sequence[Block], confidence: float) -> str:
    """All tables as LaTeX (booktabs)."""
    text = []
    for block in blocks:
        columns = "ll" + "r" * (len(block.header) - 2)
        text += [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        text += [" & ".join(tex_text(name) for name in block.header) + r" \\", r"\midrule"]
        text += [" & ".join(tex_text(value) for value in row) + r" \\" for row in block.rows]
        caption = " ".join([f"{block.title}, with {100 * confidence:.0f}% intervals.", *block.notes])
        text += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{tex_text(caption)}}}", r"\end{table}", ""]
    return "\n".join(text)
