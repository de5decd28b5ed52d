"""Limits for the check of samples, from the run's own real photos.

Pinned to the first cohort's training photos that have a mask and a canvas, so that new photos, diseases and cohorts move no limit.
"""

from pathlib import Path

from cgddi.job.command import stage_parser
from cgddi.job.imports import without_gc


def main(argv: list[str]) -> int:
    """Run `cgddi calibration`."""
    parser = stage_parser("calibration", __doc__)
    parser.add_argument("--photos", type=Path, nargs="+", required=True, help="archives of the photos (stage masks)")
    parser.add_argument("--canvases", type=Path, nargs="+", required=True, help="archives of their healthy canvases")
    parser.add_argument("--output", type=Path, required=True, help="the limits to write (.json)")
    args = parser.parse_args(argv)
    with without_gc():
        from cgddi.stages.calibration.stage import calibrate

    calibrate(args.spec, args.photos, args.canvases, args.output)
    return 0
