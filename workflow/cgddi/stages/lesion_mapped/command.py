"""Transplant the lesion of each donor of a batch onto every canvas of a cohort.

The spec holds images (ids of the donors), their concept (in labels), canvas_cohort and seed. Each composite comes with its
five-class mask and its lineage.
"""

from collections.abc import Sequence

from cgddi.job.command import stage_parser
from cgddi.job.imports import without_gc
from cgddi.stages.lesion_mapped.settings import LesionMappedSettings


def main(argv: Sequence[str]) -> int:
    """Run `cgddi lesion_mapped`."""
    parser = stage_parser("lesion_mapped", __doc__)
    parser.add_argument("--photos", required=True, help="the masks archive that holds the donors")
    parser.add_argument("--canvases", required=True, help="the archive of the canvas cohort")
    parser.add_argument("--skin", help="masks of the canvases in the place of their photos' (masks.on_healthy)")
    parser.add_argument("--output", required=True, help="the archive (.tar) to write")
    options = parser.parse_args(argv)
    with without_gc():
        from cgddi.job.spec import checked
        from cgddi.stages.lesion_mapped.stage import map_lesions

    settings = checked(LesionMappedSettings, options.spec, "images", "canvas_cohort")
    map_lesions(options.spec, settings, options.photos, options.canvases, options.output, options.skin)
    return 0
