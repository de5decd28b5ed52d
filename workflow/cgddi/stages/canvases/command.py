"""Decide which healthy images of a cohort are kept, and pool them into one archive.

The spec holds cohort, and verdicts (image id -> keep or discard) from review.csv, which override the triage.
"""

from collections.abc import Sequence

from cgddi.job.command import stage_parser
from cgddi.job.imports import without_gc
from cgddi.stages.canvases.settings import CanvasesSettings


def main(argv: Sequence[str]) -> int:
    """Run `cgddi canvases`."""
    parser = stage_parser("canvases", __doc__)
    parser.add_argument("--healthy", nargs="+", required=True, help="the cohort's healthy archives")
    parser.add_argument("--output", required=True, help="the archive (.tar) to write")
    options = parser.parse_args(argv)
    with without_gc():
        from cgddi.job.spec import checked
        from cgddi.stages.canvases.stage import pool_canvases

    settings = checked(CanvasesSettings, options.spec, "cohort")
    pool_canvases(options.spec, settings, options.healthy, options.output)
    return 0
