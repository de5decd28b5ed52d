"""Write what leaves the lab: a Hugging Face data set (WebDataset shards by kind) and adapters in diffusers' layout."""

from __future__ import annotations

from cgddi.job.command import stage_parser


def main(argv: list[str]) -> int:
    """Run `cgddi export`."""
    parser = stage_parser("export", __doc__)
    parser.add_argument("--index", nargs="+", required=True, help="index/<split>.parquet")
    parser.add_argument("--lora", nargs="*", default=[], help="lora/<scope>/<concept>/pytorch_lora_weights.safetensors")
    parser.add_argument(
        "--embedding", nargs="*", default=[], help="embedding/<scope>/<concept>/learned_embeds.safetensors"
    )
    parser.add_argument("--output-dir", required=True, help="folder to write")
    args = parser.parse_args(argv)

    from cgddi.stages.export.dataset import export

    export(args.spec, args.index, args.lora, args.embedding, args.output_dir)
    return 0
