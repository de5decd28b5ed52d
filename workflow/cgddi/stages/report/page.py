"""The report page: shows what the other stages wrote, and computes nothing of its own."""

import json
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import markdown
import pandas as pd

from cgddi.core.archive import Archive, installed_versions, write_atomic
from cgddi.core.images import TONES
from cgddi.core.labels import labels_of, with_labels
from cgddi.core.pictures import Picture, PictureFolder
from cgddi.job.spec import settings_of
from cgddi.stages.report import answer, curves, methods, overview, tables
from cgddi.stages.report.pictures import sheet_data, sheets
from cgddi.stages.report.readers import discernment, read_answers, write_quiz
from cgddi.stages.report.records import gather
from cgddi.stages.report.settings import ReportSettings
from cgddi.stages.report.tablefolder import MEANINGS, TableFolder, heading

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


def write_page(spec: Mapping[str, Any], files: Namespace, output: str) -> str:
    """Write the report, its pictures beside it, and the page "real or made?".

    Args:
        spec: the job's spec; its settings are `ReportSettings`.
        files: what the page shows, as the options of `cgddi report` name it.

    Returns:
        The page "real or made?".
    """
    logs, settings = Path(files.logs), settings_of(ReportSettings, spec)
    folder, shown = PictureFolder(output), TableFolder(output)
    indices = {Path(path): with_labels(pd.read_parquet(path), labels_of(spec)) for path in files.index}
    by_split = {path.stem: index for path, index in indices.items()}
    summary = json.loads(Path(files.summary).read_text(encoding="ascii"))
    records = gather(spec, sorted(files.samples), files.semantic, files.classify, indices)
    quiz = Path(output).with_name("real-or-made.html")
    drawn = {split: sheets(index, files.semantic, folder) for split, index in by_split.items()}
    judged = overview.verdicts(files.audits, records.indices, summary.get("caveats", {}))
    leakage = {each["name"].rpartition(" ")[2]: each["text"] for each in judged if each["name"].startswith("Leakage")}
    page = environment(shown).get_template("page.html").render(
        title=settings.title,
        **answer_of(summary, files.summary),
        run=overview.what_was_run(records, by_split, logs, tables.attempts(logs)),
        changed=spec.get("changed"),
        changed_table=tables.config_table(spec.get("changed") or {}),
        verdicts=judged,
        fairness=shown_folder(files.summary, FAIRNESS_TABLES, FAIRNESS_PLOTS, folder),
        meanings=MEANINGS,
        ladder=shown_folder(files.ladder, LADDER_TABLES, LADDER_PLOTS, folder) if files.ladder else None,
        sheets=drawn,
        sheet_data=sheet_data(drawn),
        splits={split: split_of(index, records.indices[split]) for split, index in by_split.items()},
        not_pooled=tables.not_pooled(records),
        healthy=healthy_of(files.healthy, folder) if files.healthy else None,
        masks=masks_of(files.masks, folder) if files.masks else None,
        study=study_of(files.fedd, folder) if files.fedd else None,
        tones=TONES,
        audits=tables.audit_tables(files.audits),
        adapters={f"{Path(p).parts[-3]} / {Path(p).parts[-2]}": folder.add(p, side=2048) for p in sorted(files.samples)},
        curves={
            "Classifiers": curves.classifiers(records.classifiers),
            "Tokens": curves.trainings(logs, "embedding"),
            "Adapters": curves.trainings(logs, "lora"),
        },
        usage=tables.usage(logs),
        short=tables.short,
        predicted=tables.plan_and_fact(logs),
        review=os.path.relpath(files.review, Path(output).parent) if files.review else None,
        published=os.path.relpath(files.published, Path(output).parent) if files.published else None,
        quiz=write_quiz(next(iter(by_split.values())), folder, quiz),
        read=tables.discernment_table(discernment(read_answers(settings.answers))) if settings.answers else None,
        methods=methods.paragraph(records, by_split, summary.get("intervals", "")),
        checklist=methods.checklist(records, by_split, leakage, bool(summary.get("settings"))),
        checklist_source=methods.SOURCE,
        spec={name: value for name, value in spec.items() if name != "labels"},
        versions=installed_versions(["cgddi", "snakemake", "torch", "diffusers", "peft", "transformers", "timm"]),
    )  # fmt: skip
    write_atomic(output, page)
    folder.sweep()
    shown.sweep()
    return str(quiz)


def environment(shown: TableFolder) -> jinja2.Environment:
    """Templates of the page; a name that nobody gave is an error."""
    loader = jinja2.PackageLoader("cgddi.stages.report", "templates")
    undefined = jinja2.StrictUndefined
    made = jinja2.Environment(loader=loader, autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True)
    made.policies["json.dumps_kwargs"] = {}  # in the order of the page, not sorted
    made.globals |= {"table": shown.html, "heading": heading, "is_text": lambda value: isinstance(value, str)}
    return made


def answer_of(summary: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The answer in sentences, and what its plot of differences shows, from the fairness stage's summary and metrics."""
    found = answer.groups(summary.get("paired", []))
    metrics = pd.read_csv(Path(path).with_name("metrics.csv"))
    overview = tables.settings_table(metrics)
    values, photos = {}, {}
    for row in metrics.to_dict("records") if overview is not None else ():
        value = pd.to_numeric(row["value"], errors="coerce")
        # Of figures that compare tones: differences of them are unbiased too.
        unbiased = pd.to_numeric(row.get("unbiased"), errors="coerce")
        if not pd.isna(value):
            value = value if pd.isna(unbiased) else unbiased
            values[row["split"], row["method"], row["regime"], row["metric"], row["group"]] = value
        if row["metric"] == "accuracy":
            photos[row["split"], row["group"]] = int(row["images"])
    return {
        "sentences": answer.sentences(found[0], values, photos) if found else [],
        "comparisons": [answer.comparison(rows) for rows in found],
        "overview": overview,
    }


def shown_folder(
    summary: str, csvs: Mapping[str, str], pngs: Mapping[str, str], pictures: PictureFolder
) -> dict[str, Any]:
    """What lies beside a summary.json: table.md, and tables and plots by caption; one that is not there or empty is left out."""
    folder = Path(summary).parent
    text = (folder / "table.md").read_text(encoding="utf-8")
    tabled = {caption: folder / f"{name}.csv" for name, caption in csvs.items()}
    plotted = {caption: folder / f"{name}.png" for name, caption in pngs.items()}
    return {
        "table": markdown.markdown(text, extensions=["tables"]),
        "tables": {
            caption: (path.stem, pd.read_csv(path))
            for caption, path in tabled.items()
            if path.is_file() and path.read_text(encoding="utf-8").strip()
        },
        "plots": {
            caption: pictures.add(path, caption, side=None) for caption, path in plotted.items() if path.is_file()
        },
    }


def study_of(summary: str, pictures: PictureFolder) -> dict[str, Any]:
    """The FEDD study: its cohort, tables and plots."""
    shown = shown_folder(summary, STUDY_TABLES, STUDY_PLOTS, pictures)
    shown["table"] = shown["table"].replace(" (published", "<br>(published")
    return {**shown, "cohort": json.loads(Path(summary).read_text(encoding="ascii"))["cohort"]}


def split_of(index: pd.DataFrame, record: Mapping[str, Any]) -> dict[str, Any]:
    """One split: counts of its images, what its index leaves out and why, and what it is made by."""
    settings = {name: record[name] for name in ("drop_touching", "label_missing") if name in record}
    return {"counts": tables.counts(index), "left_out": tables.left_out(record), "settings": settings}


def healthy_of(path: str, folder: PictureFolder) -> dict[str, Any]:
    """Examples by tone (before, after, baseline) and the comparison of both methods, from audit/healthy."""
    archive = Archive(path)
    examples: dict[str, list[list[Picture]]] = {tone: [] for tone in TONES}
    for row in archive.rows:
        said = {
            "before.png": f"photo {row['id'].rpartition('/')[2]}",
            "png": row["verdict"],
            "baseline.png": "copied skin",
        }
        examples[row["tone"]].append([folder.add(archive.read(row, part), text) for part, text in said.items()])
    return {"examples": examples, "comparison": tables.comparison_table(archive.record["comparison"])}


def masks_of(path: str, folder: PictureFolder) -> dict[str, Any]:
    """Tables by caption, sources and examples by tone (photo, mask and, where known, uncertainty), from audit/masks."""
    archive = Archive(path)
    examples: dict[str, list[list[Picture]]] = {tone: [] for tone in TONES}
    for row in archive.rows:
        flags = ", ".join(row["flags"]) or "no flags"
        text = f"{row['mask_source']}: {flags}" if row["has_mask"] else f"not used: {flags}"
        said = {"png": f"photo {row['id'].rpartition('/')[2]}", "overlay.png": text, "heat.png": "uncertainty"}
        shown = [folder.add(archive.read(row, part), text) for part, text in said.items() if part in row["members"]]
        examples[row["tone"]].append(shown)
    facts = archive.record
    return {"tables": tables.mask_tables(facts), "sources": facts["sources"], "examples": examples}
