"""Train a baseline of the study, a U-Net or a malignancy classifier, on the photos of one subset, and test it.

Writes weights.safetensors, record.json and, for segmentation, test.csv, validation.csv and pictures.safetensors, for
classification predictions.csv: the formats of the FEDD segmenter and probe.

The spec holds task, network, subset, run_seed, size, crop, id_map, and the rows (image_id, file, mask, skin_tone, malignant)
under train, validation and test.
"""

from __future__ import annotations

from collections.abc import Sequence

from cgddi.fedd.settings import BaselinesSettings
from cgddi.fedd.study_options import study_parser
from cgddi.job.imports import importing


def main(argv: Sequence[str]) -> int:
    """Run `cgddi fedd baseline`."""
    args = study_parser("baseline", __doc__, features=False).parse_args(argv)
    with importing():
        from cgddi.fedd.baselines import run_baseline
        from cgddi.job.spec import checked

    keys = ("task", "network", "subset", "run_seed", "size", "crop", "train", "validation", "test")
    settings = checked(BaselinesSettings, args.spec, *keys)
    run_baseline(args.spec, settings, args.output_dir, args.threads, args.metrics)
    return 0
