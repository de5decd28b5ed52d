"""Bring photos and their five-class masks to working size: one archive per batch.

The spec holds rows (image_id, file, mask or null, concept, skin_tone, malignant, group), cohort and batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from cgddi.command import stage_parser
from cgddi.masks.settings import MasksSettings


def main(argv: Sequence[str]) -> int:
    """Run `cgddi masks`."""
    parser = stage_parser("masks", __doc__)
    parser.add_argument("--output", required=True, help="the archive (.tar) to write")
    options = parser.parse_args(argv)
    from cgddi.masks.specs import checked
    from cgddi.masks.stage import write_batch

    settings = checked(MasksSettings, options.spec, "rows", "cohort", "batch")
    write_batch(options.spec, settings, options.output)
    return 0
