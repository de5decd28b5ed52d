"""Sample images of a concept on healthy canvases, in three tones: an archive with its manifest and record.

Each image is checked against limits from the run's own photos, and drawn again where it fails. What an earlier run drew is not
drawn a second time, whatever the limits are now.
"""

from __future__ import annotations

from pathlib import Path

from cgddi.job.command import stage_parser
from cgddi.job.imports import without_gc


def main(argv: list[str]) -> int:
    """Run `cgddi semantic`."""
    parser = stage_parser("semantic", __doc__)
    parser.add_argument("--canvases", type=Path, nargs="+", required=True, help="archives of healthy canvases")
    parser.add_argument("--split", type=Path, help="csv image_id,role: canvases that are not role train are left out")
    parser.add_argument("--embedding", type=Path, help="learned_embeds.safetensors of the concept")
    parser.add_argument("--lora", type=Path, help="pytorch_lora_weights.safetensors, with record.json beside it")
    parser.add_argument("--calibration", type=Path, help="limits of the check (stage calibration); none: no check")
    parser.add_argument("--photos", type=Path, nargs="*", default=[], help="archives of the adapter's training photos")
    parser.add_argument("--output", type=Path, required=True, help="the .tar to write")
    from cgddi.diffusion.log import engine_options

    engine_options(parser)
    args = parser.parse_args(argv)
    with without_gc():
        from cgddi.job import runtime
        from cgddi.stages.semantic.sample import SemanticJob, sample_concept

    if "adapter" in args.spec:
        from cgddi.diffusion.weights import given_files

        args.embedding, args.lora = given_files(args.spec["adapter"])
    elif not (args.embedding and args.lora):
        parser.error("--embedding and --lora are needed, or a spec that names a given adapter")
    device = runtime.start(args.threads)
    with runtime.usage_log(args.metrics, stage="semantic", concept=args.spec.get("concept", {}).get("slug")) as used:
        inputs = (args.canvases, args.split, args.embedding, args.lora, args.output, args.calibration, args.photos)
        sample_concept(SemanticJob(args.spec, *inputs), args.cache, device, used=used)
    return 0
