"""Pool the kept healthy images of a cohort into one archive.

The spec holds cohort, and verdicts (image id -> keep or discard) from review.csv, which override the triage.
"""

from __future__ import annotations

from collections.abc import Sequence

from cgddi.canvases.settings import CanvasesSettings
from cgddi.command import stage_parser
from cgddi.imports import importing


def main(argv: Sequence[str]) -> int:
    """Run `cgddi canvases`."""
    parser = stage_parser("canvases", __doc__)
    parser.add_argument("--healthy", nargs="+", required=True, help="the cohort's healthy archives")
    parser.add_argument("--output", required=True, help="the archive (.tar) to write")
    options = parser.parse_args(argv)
    with importing():
        from cgddi.canvases.stage import pool_canvases
        from cgddi.jobspec import checked

    settings = checked(CanvasesSettings, options.spec, "cohort")
    pool_canvases(options.spec, settings, options.healthy, options.output)
    return 0
