"""Tabulate accuracy and fairness of all classifiers: metrics with intervals, tables beside the published figures, tests, plots.

Settings of each run are read from the record.json beside its predictions.csv, the test photos' labels from the spec: a corrected
label makes the tables again and trains nothing.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgddi.core.archive import record_for, write_atomic, write_record
from cgddi.core.labels import labels_of
from cgddi.job.command import stage_parser
from cgddi.job.imports import without_gc
from cgddi.job.spec import settings_of
from cgddi.stages.fairness.settings import FairnessSettings


def main(argv: list[str] | None = None) -> int:
    """Run `cgddi fairness`."""
    parser = stage_parser("fairness", __doc__)
    parser.add_argument("--predictions", nargs="+", required=True, help="predictions of the classifiers (.csv)")
    parser.add_argument("--output-dir", required=True, help="folder to write to")
    args = parser.parse_args(argv)
    settings = settings_of(FairnessSettings, args.spec)
    seed, labels = int(args.spec.get("seed", 0)), labels_of(args.spec)
    if args.spec.get("job") == "ladder":
        files, summary = climb(args.predictions, settings, seed, labels)
    else:
        files, summary = tabulate(args.predictions, settings, seed, args.spec.get("splits", {}), labels)
    out = Path(args.output_dir)
    for name, data in files.items():
        write_atomic(out / name, data)
    record = record_for(args.spec, args.predictions, **summary)
    write_record(out / "summary.json", record, [out / name for name in files])
    return 0


def tabulate(
    predictions: Sequence[str],
    options: FairnessSettings,
    seed: int,
    splits: Mapping[str, Mapping[str, Any]] | None = None,
    labels: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[dict[str, bytes | str], dict[str, Any]]:
    """All tables and plots.

    Args:
        predictions: csv files, each with its record.json beside it.
        splits: split -> its settings, as the plan knows them; published figures stand beside runs of the published splits only.
        labels: image id -> concept, tone and malignant of the test photos, where the predictions do not tell them.

    Returns:
        File name -> content, and the facts for summary.json.
    """
    with without_gc():
        from tqdm import tqdm

        from cgddi.stages.fairness import compare, render, tables
        from cgddi.stages.fairness.predictions import gather, read_run
        from cgddi.stages.fairness.published import describe, with_splits

    runs = [read_run(path, labels) for path in tqdm(predictions, desc="read predictions", unit="run")]
    with_splits(runs, splits or {})
    settings = gather(runs, options.families)
    metrics = tables.metrics_table(settings, options, seed)
    by_rarity = tables.by_rarity_table(settings, options)
    paired = compare.paired_table(settings, options, seed)
    lines, notes = render.rows_of(metrics)
    files: dict[str, bytes | str] = {
        "metrics.csv": metrics.to_csv(index=False),
        "by_tone.csv": tables.by_tone_table(metrics).to_csv(index=False),
        "by_rarity.csv": by_rarity.to_csv(index=False),
        "by_disease.csv": tables.by_disease_table(settings, options).to_csv(index=False),
        "paired.csv": compare.shown(paired).to_csv(index=False),
        "table.md": render.markdown(metrics, by_rarity, options.confidence),
        "table.tex": render.latex(metrics, by_rarity, options.confidence),
        "roc.png": render.roc_by_tone(settings),
        "metrics.png": render.metrics_with_intervals(metrics),
        "calibration.png": render.calibration(settings),
    }
    return files, {
        "runs": len(runs),
        "table": lines,
        "notes": notes,
        "counts": render.count_lines(metrics),
        "intervals": render.ABOUT,
        "chance": render.chance_lines(metrics, options.confidence),
        "eom_flips": render.flip_lines(metrics),
        "caveats": {setting.name: setting.caveats for setting in settings if setting.caveats},
        "settings": _plain(metrics[metrics["group"] == "all"]),
        "paired": _plain(paired),
        "about": {setting.name: describe(setting, options.published) for setting in settings},
    }


def climb(
    predictions: Sequence[str],
    options: FairnessSettings,
    seed: int,
    labels: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[dict[str, bytes | str], dict[str, Any]]:
    """The ladder's table and curves (see `cgddi.stages.fairness.ladder`); arguments and results as of `tabulate`."""
    with without_gc():
        from cgddi.stages.fairness import ladder, tables
        from cgddi.stages.fairness.predictions import gather, read_run

    settings = gather([read_run(path, labels) for path in predictions], options.families)
    metrics = tables.metrics_table(settings, options, seed)
    table = ladder.ladder_table(settings, metrics)
    files: dict[str, bytes | str] = {
        "ladder.csv": table.to_csv(index=False),
        "ladder.png": ladder.plot(table),
        "table.md": ladder.markdown(table, options.confidence),
    }
    return files, {"runs": len(predictions), "settings": [setting.name for setting in settings]}


def _plain(table: Any) -> list[dict[str, Any]]:
    """Rows of a data frame as plain values for JSON, missing ones left out."""
    from pandas import isna as missing

    return [
        {key: value.item() if hasattr(value, "item") else value for key, value in row.items() if not missing(value)}
        for row in table.to_dict("records")
    ]
