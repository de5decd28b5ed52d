"""The report page, filled from what the other stages wrote."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import markdown
import pandas as pd
from markupsafe import escape

from cgddi.core.archive import installed_versions, write_atomic
from cgddi.core.images import TONES
from cgddi.job.spec import settings_of
from cgddi.stages.canvases.settings import TriageSettings
from cgddi.stages.report import fedd as fedd_section
from cgddi.stages.report.healthy import compare, draw_examples
from cgddi.stages.report.pictures import KINDS, contact_sheet, data_uri
from cgddi.stages.report.settings import ReportSettings
from cgddi.stages.report.usage import plan_and_fact, short, usage

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


def audit_tables(audits: Sequence[str]) -> dict[str, dict[str, str]]:
    """What the audits found, as small tables: split -> caption -> HTML."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(audits):
        caption, html = AUDITS[Path(path).stem](json.loads(Path(path).read_text()))
        found.setdefault(Path(path).parent.name, {})[caption] = html
    return found


def _leakage(values: dict[str, Any]) -> tuple[str, str]:
    checked = ", ".join(f"{n} {name.replace('_', ' ')}" for name, n in values["checked"].items())
    verdict = "clean" if values["clean"] else "LEAKS, and the gate was told to report only"
    return "Leakage gate", str(escape(f"{verdict} ({checked})"))


def _by_kind_and_tone(values: dict[str, Any], columns: Callable[[dict[str, Any]], dict[str, Any]]) -> str:
    rows = [
        {"kind": kind, "tone": tone} | columns(cell)
        for kind, tones in values["by_kind"].items()
        for tone, cell in tones.items()
    ]
    return _table(pd.DataFrame(rows))


def _tone(values: dict[str, Any]) -> tuple[str, str]:
    cuts = " and ".join(f"{cut:g}" for cut in values["cuts"])
    return f"Tone asked for against tone measured: {values['measure']}; cuts at {cuts} degrees", _by_kind_and_tone(
        values,
        lambda cell: (
            {"images": cell["images"], "agree": cell["agreement"]}
            | {f"measured {tone}": cell["measured"][tone] for tone in TONES}
        ),
    )


def _quality(values: dict[str, Any]) -> tuple[str, str]:
    keys = ("images", "real_images", "fid", "kid", "kid_std", "black", "flat")
    return f"Quality against real photos of the same tone; features: {values['features']}", _by_kind_and_tone(
        values, lambda cell: {key: cell.get(key) for key in keys}
    )


def _memorisation(values: dict[str, Any]) -> tuple[str, str]:
    if "similarity" not in values:
        return "Memorisation: there is no sample, or no real training photo, to compare.", ""
    frame = pd.DataFrame({"samples": values["similarity"], "real photos among themselves": values["between_real"]})
    caption = (
        f"Memorisation: {values['copies']} of {values['images']} samples come nearer than {values['threshold']} to a training "
        f"photo, {values['closer_than_real']} nearer than any two training photos are to each other. Quantiles of the similarity "
        f"to the nearest one; features: {values['features']}"
    )
    return caption, _table(frame.rename_axis("quantile").reset_index())


AUDITS = {"leakage": _leakage, "tone": _tone, "quality": _quality, "memorisation": _memorisation}


def _table(frame: pd.DataFrame, number: str | Callable[[float], str] = "%.3f") -> str:
    return frame.to_html(index=False, border=0, na_rep="", float_format=number)


def fairness_tables(folder: Path) -> dict[str, str]:
    """Caption -> table of the fairness folder's csv files; a file without rows is left out (one regime: nothing to pair)."""
    files = {caption: folder / f"{name}.csv" for name, caption in TABLES.items()}
    return {caption: _table(pd.read_csv(path)) for caption, path in files.items() if path.read_text().strip()}


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
    fedd: str | None = None,
    masks: Sequence[str] = (),
    canvases: Sequence[str] = (),
    mapped: Sequence[str] = (),
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
        fedd: fedd/tables/summary.json, where there is a study.
        masks, canvases, mapped: archives, given where the page has a section on masks.
    """
    settings = settings_of(ReportSettings, spec)
    fairness = Path(summary).parent
    examples = draw_examples(healthy, settings.images_per_cell, spec["seed"], TriageSettings(**spec.get("triage", {})))
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
    predicted = plan_and_fact(Path(logs))
    page = (
        _environment()
        .get_template("page.html")
        .render(
            title=settings.title,
            table=markdown.markdown((fairness / "table.md").read_text(), extensions=["tables"]),
            tables=fairness_tables(fairness),
            plots={caption: data_uri(fairness / f"{name}.png") for name, caption in PLOTS.items()},
            splits=splits,
            healthy={
                tone: [
                    (*(data_uri(p, settings.thumbnail) for p in (e.before, e.after, e.baseline)), e.verdict)
                    for e in examples
                    if e.tone == tone
                ]
                for tone in TONES
            },
            comparison=_table(compare(examples)),
            fedd=fedd_section.section(spec, settings, fedd, masks, canvases, mapped),
            kinds=KINDS,
            tones=TONES,
            audits=audit_tables(audits),
            adapters=[
                {"name": f"{Path(p).parts[-3]} / {Path(p).parts[-2]}", "picture": data_uri(p)} for p in sorted(samples)
            ],
            usage=_table(usage(Path(logs)), short),
            predicted=predicted and (predicted[0], _table(predicted[1], short)),
            review=os.path.relpath(review, Path(output).parent),
            spec=spec,
            versions=installed_versions(["cgddi", "snakemake", "torch", "diffusers", "peft", "transformers", "timm"]),
        )
    )
    write_atomic(output, page)


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("cgddi.stages.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
