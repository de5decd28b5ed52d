"""Write the page "published against ours": every published figure beside the run's own, with interval, deviation and difference.

The same figures stand in published.csv beside the page.
"""

from pathlib import Path

from cgddi.core.archive import record_for, write_atomic, write_record
from cgddi.job.command import stage_parser
from cgddi.job.imports import without_gc
from cgddi.job.spec import settings_of
from cgddi.stages.published.settings import PublishedSettings


def main(argv: list[str] | None = None) -> int:
    """Run `cgddi published`."""
    parser = stage_parser("published", __doc__)
    parser.add_argument("--summary", help="fairness/summary.json; the tables lie beside it")
    parser.add_argument("--quality", help="audit/<split>/quality.json")
    parser.add_argument(
        "--images", nargs="*", default=[], help="manifests of canvases, composites and samples, to be counted"
    )
    parser.add_argument("--fedd", help="fedd/tables/summary.json; the tables lie beside it")
    parser.add_argument("--output", required=True, help="the page to write")
    args = parser.parse_args(argv)
    table = settings_of(PublishedSettings, args.spec).table
    with without_gc():
        from cgddi.stages.published.compare import compare
        from cgddi.stages.published.page import render

    cells = compare(args.spec, table, args.summary, args.quality, args.images, args.fedd)
    page = Path(args.output)
    beside = page.with_name("published.csv")
    write_atomic(beside, cells.to_csv(index=False, lineterminator="\n"))
    write_atomic(page, render(cells, table, args.fedd and Path(args.fedd).parent))
    inputs = [*filter(None, (args.summary, args.quality, args.fedd)), *args.images]
    write_record(page.with_name("record.json"), record_for(args.spec, inputs), [page, beside])
    return 0
