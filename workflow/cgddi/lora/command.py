"""Train LoRA adapters: `pytorch_lora_weights.safetensors`, `record.json` and `samples.png` in the output folder.

One concept per call, or several at once: give --embedding and --output-dir once per concept, and a spec {"pack": [spec, ...]}
with one spec per concept in the same order; all photos archives together in --photos.
"""

from __future__ import annotations

from pathlib import Path

from cgddi.command import stage_parser
from cgddi.errors import UserError


def main(argv: list[str]) -> int:
    """Run `cgddi lora`."""
    parser = stage_parser("lora", __doc__)
    parser.add_argument(
        "--photos", type=Path, nargs="+", required=True, help="masks archives that hold the training images"
    )
    parser.add_argument("--canvases", type=Path, nargs="*", default=[], help="archives of healthy canvases, for priors")
    parser.add_argument("--split", type=Path, help="csv image_id,role: only canvases of role train become priors")
    parser.add_argument(
        "--embedding", type=Path, nargs="+", required=True, help="learned_embeds.safetensors, one per concept"
    )
    parser.add_argument("--output-dir", type=Path, nargs="+", required=True, help="one per concept")
    from cgddi.diffusion.jobs import engine_options

    engine_options(parser)
    args = parser.parse_args(argv)
    specs = args.spec.get("pack", [args.spec])
    if not len(specs) == len(args.embedding) == len(args.output_dir):
        raise UserError(
            f"{len(specs)} concept(s), {len(args.embedding)} embedding(s), {len(args.output_dir)} output(s) given."
        )
    from cgddi import runtime
    from cgddi.lora.data import LoraJob
    from cgddi.lora.train import train_lora

    device = runtime.start(args.threads)
    pack = [
        LoraJob(spec, args.photos, args.canvases, args.split, embedding, output)
        for spec, embedding, output in zip(specs, args.embedding, args.output_dir, strict=True)
    ]
    with runtime.usage_log(
        args.metrics, stage="lora", concept=[s.get("concept", {}).get("slug") for s in specs]
    ) as used:
        train_lora(pack, args.state, args.cache, device)
        used["steps"] = specs[0].get("settings", {}).get("steps", 0)
    return 0
