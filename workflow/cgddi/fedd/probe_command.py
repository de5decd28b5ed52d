"""Train the malignancy probes of one subset at one timestep, for all blocks and seeds at once, and test them.

Writes predictions.csv (image_id, tone, malignant, role, block, seed, probability; validation and test photos) and record.json.

The spec holds subset, timestep, blocks (null: all in the feature files), seeds, and the rows (image_id, skin_tone, malignant)
under train, validation and test.
"""

from __future__ import annotations

from collections.abc import Sequence

from cgddi.command import stage_parser
from cgddi.fedd.settings import ProbeSettings


def main(argv: Sequence[str]) -> int:
    """Run `cgddi fedd probe`."""
    parser = stage_parser("fedd probe", __doc__)
    parser.add_argument(
        "--features", nargs="+", required=True, help="feature files (.safetensors) of the study's photos"
    )
    parser.add_argument("--output-dir", required=True, help="folder to write to")
    parser.add_argument("--metrics", help="log of what the job used (JSON lines)")
    args = parser.parse_args(argv)
    from cgddi.fedd.probe import run_probe
    from cgddi.masks.specs import checked

    settings = checked(ProbeSettings, args.spec, "subset", "timestep", "seeds", "train", "validation", "test")
    run_probe(args.spec, settings, args.features, args.output_dir, args.threads, args.metrics)
    return 0
