"""Train the pixel networks of one subset on stored features, and test them.

Writes weights.safetensors, validation.csv and test.csv (pixel counts per photo and class), pictures.safetensors (a few test masks
beside the truth) and record.json.

The spec holds variant (plain, reweight, augment or centre), subset, run_seed, size, timestep, blocks, crop, id_map, and the rows
(image_id, file, mask, skin_tone, malignant) under train, validation and test.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from cgddi.core.errors import UserError
from cgddi.fedd.settings import SegmenterSettings, Variant
from cgddi.fedd.study_options import study_parser
from cgddi.job.imports import importing


def main(argv: Sequence[str]) -> int:
    """Run `cgddi fedd segmenter`."""
    args = study_parser("segmenter", __doc__).parse_args(argv)
    with importing():
        from cgddi.fedd.segmenter_run import run_segmenter
        from cgddi.job.spec import checked

    keys = ("variant", "subset", "run_seed", "size", "timestep", "blocks", "crop", "train", "validation", "test")
    settings = checked(SegmenterSettings, args.spec, *keys)
    if args.spec["variant"] not in get_args(Variant):
        raise UserError(
            f"no variant {args.spec['variant']!r} of the segmenter. There are {', '.join(get_args(Variant))}."
        )
    run_segmenter(args.spec, settings, args.features, args.output_dir, args.threads, args.metrics)
    return 0
