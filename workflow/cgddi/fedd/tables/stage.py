"""From the study's runs to its tables and plots, and to tables for reading: Markdown and LaTeX."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgddi.core.archive import record_for, write_atomic, write_record
from cgddi.core.bootstrap import Bootstrap
from cgddi.core.figures import md_row, tex_text
from cgddi.core.images import TONES
from cgddi.fedd.settings import TablesSettings
from cgddi.fedd.tables import frames, plots
from cgddi.fedd.tables.frames import Context
from cgddi.fedd.tables.plots import name_of, two

NOT_FIGURES = ("published", "published_same", "block", "timestep", "p")
"""Columns that stay empty where there is nothing; in the others nothing is an undefined figure."""
OTHER_DATA = "‡"


def run_tables(
    spec: Mapping[str, Any],
    settings: TablesSettings,
    runs: Sequence[str | Path],
    features: Sequence[str | Path],
    output: str | Path,
) -> None:
    """Write all tables and pictures of a study; what has no runs has no file, and none is left of an earlier run.

    Args:
        spec: the job's spec: cohort, subsets [{name, per_tone}], timestep and blocks of the segmenter, seed, and `labels`
            (image_id and malignant of what is tested, which the networks were not told).
        settings: bootstrap and published data. runs: run folders, or a file in each. features: feature files with K-means pictures.

    Raises:
        UserError: runs of different studies.
    """
    labels = {row["image_id"]: row["malignant"] for row in spec.get("labels", [])}
    study = frames.read_runs(runs, settings.absent_classes, labels)
    per_tone = {str(subset["name"]): int(subset["per_tone"]) for subset in spec["subsets"]}
    per_tone = dict(sorted(per_tone.items(), key=lambda item: (item[1], item[0])))
    bootstrap = Bootstrap(settings.bootstrap, settings.confidence, int(spec["seed"]))
    context = Context(str(spec["cohort"]), per_tone, bootstrap, settings.published)
    segmenters = frames.segmenters_in_order(study, context)
    iou, gap, paired = (make(segmenters, context) for make in (frames.iou_frame, frames.gap_frame, frames.paired_frame))
    ablation = frames.ablation_frame(study, context, int(spec["timestep"]))
    classifiers = frames.classifiers_in_order(study, ablation, context)
    classification = frames.classification_frame(classifiers, context)
    further = frames.further_frame(segmenters, classifiers, context)
    tables = {"further": further, "iou": iou, "gap": gap, "paired": paired, "ablation": ablation}
    tables["classification"] = classification
    files: dict[str, bytes | str | None] = {
        f"{name}.csv": to_csv(frame) for name, frame in tables.items() if len(frame)
    }
    subsets = list(per_tone)
    if len(iou):
        files["learning.png"] = plots.learning_curves(iou, per_tone)
        files["gap.png"] = plots.curves({"": gap}, "gap", per_tone, "lesion IoU, light minus dark", 1)
        files["masks.png"] = plots.masks_picture(segmenters, subsets[-1], labels)
    if len(ablation):
        files["ablation.png"] = plots.ablation_plot(ablation, subsets)
    if len(classification):
        files["classification.png"] = plots.classification_curves(classification, per_tone)
        files["roc.png"] = plots.roc_plot(classifiers, subsets, classification, settings.dermatologists)
    if features:
        kept = [plots.read_pictures(run.folder) for run in study if run.segments]
        photos = {name: image["photo"] for images in kept for name, image in images.items()}
        files["kmeans.png"] = plots.kmeans_picture(features, photos, spec["blocks"])
    read = reading_tables(iou, gap, paired, classification, context)
    files["table.md"], files["table.tex"] = (write(read, settings.confidence) for write in (markdown, latex))
    written = {name: data for name, data in files.items() if data is not None}
    out = Path(output)
    for name, data in written.items():
        write_atomic(out / name, data)
    for path in out.iterdir():
        if path.suffix in (".csv", ".png") and path.name not in written:
            path.unlink()
    chosen = ablation[ablation["chosen"]] if len(ablation) else ablation
    blocks = {
        row.subset: {
            "block": int(row.block),
            "timestep": int(row.timestep),
            "validation_accuracy": round(row.validation, 6),
        }
        for row in chosen.itertuples()
    }
    records = sorted(str(path if path.is_file() else path / "record.json") for path in map(Path, runs))
    facts = {"files": sorted(written), "cohort": context.cohort, "subsets": per_tone, "chosen_blocks": blocks}
    write_record(out / "summary.json", record_for(spec, records, **facts))


def to_csv(frame: pd.DataFrame) -> str:
    """A table as csv, undefined figures spelled out."""
    frame = frame.copy()
    for column in frame.columns:
        if pd.api.types.is_float_dtype(frame[column]) and column not in NOT_FIGURES:
            frame[column] = frame[column].round(6).astype(object).where(frame[column].notna(), "undefined")
    return frame.to_csv(index=False, lineterminator="\n")


# ---- for reading -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ReadingTable:
    """One table: its title, header, rows of text, and notes beneath."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]


def cell(row: Mapping[str, Any], value: str) -> str:
    """A figure as text: value, interval, and the published figure where there is one."""
    interval = f"{row['low']:.2f}, {row['high']:.2f}" if np.isfinite(row["low"]) else "no interval"
    text = f"{two(row[value])} [{interval}]" if np.isfinite(row[value]) else "undefined"
    published = row.get("published")
    if published is not None and np.isfinite(published):
        text += f" (published {published:.2f}{'' if row['published_same'] is True else OTHER_DATA})"
    return text


def reading_tables(
    iou: pd.DataFrame, gap: pd.DataFrame, paired: pd.DataFrame, classification: pd.DataFrame, context: Context
) -> list[ReadingTable]:
    """The tables of a study, those that have rows."""
    tables = []
    if len(iou):
        tables.append(_segmentation(iou, gap, context))
    if len(paired):
        tables.append(_paired(paired))
    if len(classification):
        tables.append(_classification(classification))
    return tables


def _segmentation(iou: pd.DataFrame, gap: pd.DataFrame, context: Context) -> ReadingTable:
    gaps = {(row["model"], row["variant"], row["subset"]): row for row in gap.to_dict("records")}
    rows = []
    for key, part in iou.groupby(["model", "variant", "subset"], sort=False):
        cells = {(row["class"], row["tone"]): cell(row, "iou") for row in part.to_dict("records")}
        figures = [cells["mean", "all"], cells["lesion", "all"], cell(gaps[key], "gap")]
        rows.append(
            [name_of(*key[:2]), key[2], str(part["runs"].iloc[0]), *figures, *(cells["lesion", t] for t in TONES)]
        )
    first = iou[iou["class"] == "lesion"].drop_duplicates("tone").set_index("tone")
    counts = ", ".join(f"{tone} {first.loc[tone, 'images']} ({first.loc[tone, 'truth']} lesion px)" for tone in TONES)
    sizes = ", ".join(f"{name}: {count}" for name, count in context.per_tone.items())
    header = ["Segmenter", "Subset", "Runs", "Mean IoU", "Lesion IoU", "Light - dark", *(f"Lesion, {t}" for t in TONES)]
    notes = [f"Test images: {counts}.", f"Training photos per tone: {sizes}.", *_marks(iou)]
    return ReadingTable("Segmentation", header, rows, notes)


def _paired(paired: pd.DataFrame) -> ReadingTable:
    rows = []
    for (subset, second), part in paired.groupby(["subset", "second"], sort=False):
        cells = {
            (row["metric"], row["tone"]): cell(row, "difference")
            + (f", p {row['p']:.3f}" if np.isfinite(row["p"]) else "")
            for row in part.to_dict("records")
        }
        wanted = (("gap", "light-dark"), ("lesion", "all"), ("mean", "all"))
        rows.append([name_of(*second.split(" ")), subset, *(cells[key] for key in wanted)])
    header = ["Minus FEDD plain", "Subset", "Light - dark gap of lesion IoU", "Lesion IoU", "Mean IoU"]
    note = "Differences on the same test images; each bootstrap replicate draws the same images for both."
    return ReadingTable("Differences from FEDD plain", header, rows, [note])


def _classification(table: pd.DataFrame) -> ReadingTable:
    rows = []
    for (model, subset), part in table.groupby(["model", "subset"], sort=False):
        cells = {(row["metric"], row["tone"]): cell(row, "value") for row in part.to_dict("records")}
        first = part.iloc[0]
        block = "" if pd.isna(first["block"]) else f"{int(first['block'])} (t={int(first['timestep'])})"
        figures = [cells["auc", "all"], *(cells["f1", tone] for tone in TONES), cells["accuracy", "all"]]
        rows.append([name_of(model, segments=False), subset, block, str(first["runs"]), *figures])
    first = table.drop_duplicates("tone").set_index("tone")
    counts = ", ".join(f"{t} {first.loc[t, 'images']} ({first.loc[t, 'malignant']} malignant)" for t in TONES)
    notes = [f"Test images: {counts}.", "Blocks are chosen by accuracy on the validation images."]
    for model, limit in dict(zip(table["model"], table["threshold"], strict=True)).items():
        if limit != 0.5:
            notes.append(f"{name_of(model, segments=False)}: malignant from a probability of {limit:g}.")
    header = ["Classifier", "Subset", "Block", "Runs", "AUC", *(f"F1, {tone}" for tone in TONES), "Accuracy"]
    return ReadingTable("Malignancy", header, rows, notes + _marks(table))


def _marks(table: pd.DataFrame) -> list[str]:
    if all(flag is True for flag in table["published_same"][table["published"].notna()]):
        return []
    return [
        f"{OTHER_DATA} reached on other data or with other subsets (DDI; FEDD, MICCAI 2023): not comparable, for orientation."
    ]


def markdown(tables: Sequence[ReadingTable], confidence: float) -> str:
    """All tables as Markdown."""
    lines = [f"In brackets: {100 * confidence:.0f}% intervals over test images and seeds.", ""]
    for table in tables:
        lines += [f"### {table.title}", "", md_row(table.header), md_row(["---"] * len(table.header))]
        lines += [*(md_row(row) for row in table.rows), "", *(f"- {note}" for note in table.notes), ""]
    return "\n".join(lines)


def latex(tables: Sequence[ReadingTable], confidence: float) -> str:
    """All tables as LaTeX (booktabs)."""
    text = []
    for table in tables:
        columns = "ll" + "r" * (len(table.header) - 2)
        header, *rows = ([*map(tex_text, row)] for row in (table.header, *table.rows))
        text += [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
        text += [" & ".join(header) + r" \\", r"\midrule", *(" & ".join(row) + r" \\" for row in rows)]
        caption = " ".join([f"{table.title}, with {100 * confidence:.0f}% intervals.", *table.notes])
        text += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{tex_text(caption)}}}", r"\end{table}", ""]
    return "\n".join(text)
