"""Tabulate the study: IoU by class and tone, the tone gap, malignancy by block, timestep and tone, and their pictures.

Writes iou.csv, gap.csv, paired.csv, ablation.csv, classification.csv, table.md, table.tex, plots (png) and summary.json; what has
no runs is left out. Published figures stand beside ours and are marked where they were reached on other data.

The spec holds cohort, subsets (name and training photos per tone), timestep and blocks of the segmenter.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cgddi.core.archive import record_for, write_atomic, write_record
from cgddi.fedd.settings import TablesSettings
from cgddi.job.command import stage_parser
from cgddi.job.imports import importing


def main(argv: Sequence[str]) -> int:
    """Run `cgddi fedd tables`."""
    parser = stage_parser("fedd tables", __doc__)
    parser.add_argument("--runs", nargs="+", required=True, help="folders of segmenters, probes and baselines")
    parser.add_argument("--features", nargs="*", default=[], help="feature files of the study, for K-means pictures")
    parser.add_argument("--output-dir", required=True, help="folder to write to")
    args = parser.parse_args(argv)
    with importing():
        from cgddi.fedd.tables import make_tables
        from cgddi.job.spec import checked

    settings = checked(TablesSettings, args.spec, "cohort", "subsets", "timestep", "blocks")
    out = Path(args.output_dir)
    files, facts = make_tables(args.spec, settings, args.runs, args.features)
    for name, data in files.items():
        write_atomic(out / name, data)
    stale = {path for path in out.iterdir() if path.suffix in (".csv", ".png")} - {out / name for name in files}
    for path in stale:
        path.unlink()
    records = [path if path.is_file() else path / "record.json" for path in map(Path, args.runs)]
    write_record(out / "summary.json", record_for(args.spec, sorted(map(str, records)), **facts))
    return 0
