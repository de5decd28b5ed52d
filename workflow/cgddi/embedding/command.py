"""Learn a concept's token by textual inversion: `learned_embeds.safetensors` and `record.json` in the output folder."""

from __future__ import annotations

from pathlib import Path

from cgddi.command import stage_parser


def main(argv: list[str]) -> int:
    """Run `cgddi embedding`."""
    parser = stage_parser("embedding", __doc__)
    parser.add_argument(
        "--photos", type=Path, nargs="+", required=True, help="masks archives that hold the training images"
    )
    parser.add_argument("--output-dir", type=Path, required=True)
    from cgddi.diffusion.jobs import engine_options

    engine_options(parser)
    args = parser.parse_args(argv)
    from cgddi import runtime
    from cgddi.embedding.train import train_embedding

    device = runtime.start(args.threads)
    with runtime.usage_log(args.metrics, stage="embedding", concept=args.spec.get("concept", {}).get("slug")) as used:
        train_embedding(args.spec, args.photos, args.output_dir, args.state, args.cache, device)
        used["steps"] = args.spec.get("settings", {}).get("steps", 0)
    return 0
