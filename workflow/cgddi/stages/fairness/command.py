"""Tabulate accuracy and fairness of all classifiers: metrics with intervals, tables beside the published figures, tests, plots.

Settings of each run are read from the record.json beside its predictions.csv.
"""

from __future__ import annotations

from pathlib import Path

from cgddi.core.archive import record_for, write_atomic, write_record
from cgddi.job.command import stage_parser
from cgddi.job.imports import importing
from cgddi.job.spec import settings_of
from cgddi.stages.fairness.settings import FairnessSettings


def main(argv: list[str] | None = None) -> int:
    """Run `cgddi fairness`."""
    parser = stage_parser("fairness", __doc__)
    parser.add_argument("--predictions", nargs="+", required=True, help="predictions of the classifiers (.csv)")
    parser.add_argument("--output-dir", required=True, help="folder to write to")
    args = parser.parse_args(argv)
    options = settings_of(FairnessSettings, args.spec)

    with importing():
        from cgddi.stages.fairness.report import report

    out = Path(args.output_dir)
    files, summary = report(args.predictions, options, int(args.spec.get("seed", 0)))
    for name, data in files.items():
        write_atomic(out / name, data)
    write_record(out / "summary.json", record_for(args.spec, args.predictions, **summary))
    return 0
