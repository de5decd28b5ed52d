"""Train LoRA adapters: `pytorch_lora_weights.safetensors`, `record.json` and `samples.png` in the output folder.

One concept per call, or several at once: a spec {"pack": [spec, ...]} with one spec per concept, --embedding with one file per
concept in the same order, all photos archives together in --photos, and --output-dir with one folder per concept, or
--output-pack with one tar that gets a folder per concept.
"""

from __future__ import annotations

from pathlib import Path

from cgddi.core.errors import UserError
from cgddi.job.command import stage_parser
from cgddi.job.imports import importing


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
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--output-dir", type=Path, nargs="+", help="one per concept")
    where.add_argument("--output-pack", type=Path, help="a tar with the files of concept c in its folder c")
    from cgddi.diffusion.jobs import engine_options

    engine_options(parser)
    args = parser.parse_args(argv)
    specs = args.spec.get("pack", [args.spec])
    places = args.output_dir or [args.output_pack] * len(specs)
    if not len(specs) == len(args.embedding) == len(places):
        raise UserError(
            f"{len(specs)} concept(s) in the spec, {len(args.embedding)} embedding(s), {len(places)} output(s) given."
        )
    with importing():
        from cgddi.diffusion.jobs import curves_beside
        from cgddi.job import runtime
        from cgddi.stages.lora.data import LoraJob
        from cgddi.stages.lora.pack import folders
        from cgddi.stages.lora.train import train_lora

    device = runtime.start(args.threads)
    slugs = [spec.get("concept", {}).get("slug") for spec in specs]
    with (
        runtime.usage_log(args.metrics, stage="lora", concept=slugs) as used,
        folders(args.output_dir, args.output_pack, slugs) as outputs,
    ):
        pack = [
            LoraJob(spec, args.photos, args.canvases, args.split, embedding, output)
            for spec, embedding, output in zip(specs, args.embedding, outputs, strict=True)
        ]
        train_lora(pack, args.state, args.cache, device, curves=curves_beside(args.metrics), used=used)
    return 0
