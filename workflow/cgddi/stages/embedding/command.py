"""Learn a concept's token by textual inversion: `learned_embeds.safetensors` and `record.json` in the output folder.

Several tokens at once, each as it would be alone: a spec {"pack": [spec, ...]} and one --output-dir per concept in its order.
"""

from __future__ import annotations

from pathlib import Path

from cgddi.core.errors import UserError
from cgddi.job.command import stage_parser
from cgddi.job.imports import importing


def main(argv: list[str]) -> int:
    """Run `cgddi embedding`."""
    parser = stage_parser("embedding", __doc__)
    parser.add_argument(
        "--photos", type=Path, nargs="+", required=True, help="masks archives that hold the training images"
    )
    parser.add_argument("--output-dir", type=Path, nargs="+", required=True, help="one per concept")
    from cgddi.diffusion.jobs import engine_options

    engine_options(parser)
    args = parser.parse_args(argv)
    with importing():
        from cgddi.diffusion.jobs import curves_beside
        from cgddi.job import runtime
        from cgddi.stages.embedding.train import TokenJob, train_tokens

    specs = args.spec.get("pack", [args.spec])
    if len(specs) != len(args.output_dir):
        raise UserError(f"{len(specs)} concept(s) in the spec, {len(args.output_dir)} output folder(s) given.")
    device = runtime.start(args.threads)
    slugs = [spec.get("concept", {}).get("slug") for spec in specs]
    with runtime.usage_log(args.metrics, stage="embedding", concept=slugs) as used:
        pack = [TokenJob(spec, args.photos, output) for spec, output in zip(specs, args.output_dir, strict=True)]
        train_tokens(pack, args.state, args.cache, device, curves=curves_beside(args.metrics), used=used)
    return 0
