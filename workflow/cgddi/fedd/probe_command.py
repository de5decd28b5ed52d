"""Train the malignancy probes of one subset at one timestep, for all blocks and seeds at once, and test them.

Writes predictions.csv (image_id, tone, malignant, role, block, seed, probability; validation and test photos) and record.json.

The spec holds subset, timestep, blocks (null: all in the feature files), seeds, and the rows (image_id, skin_tone, malignant)
under train, validation and test.
"""

from __future__ import annotations

from collections.abc import Sequence

from cgddi.fedd.settings import ProbeSettings
from cgddi.fedd.study_options import study_parser
from cgddi.job.imports import importing


def main(argv: Sequence[str]) -> int:
    """Run `cgddi fedd probe`."""
    args = study_parser("probe", __doc__).parse_args(argv)
    with importing():
        from cgddi.fedd.probe import run_probe
        from cgddi.job.spec import checked

    settings = checked(ProbeSettings, args.spec, "subset", "timestep", "seeds", "train", "validation", "test")
    run_probe(args.spec, settings, args.features, args.output_dir, args.threads, args.metrics)
    return 0
