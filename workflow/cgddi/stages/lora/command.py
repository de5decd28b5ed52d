"""Train a concept's LoRA adapter: `pytorch_lora_weights.safetensors`, `record.json` and `samples.png` in the output folder."""

from __future__ import annotations

from pathlib import Path

from cgddi.job.command import stage_parser, state_option
from cgddi.job.imports import without_gc
from cgddi.job.launch import is_main, relaunched
from cgddi.job.spec import settings_of
from cgddi.stages.lora.settings import LoraSettings


def main(argv: list[str]) -> int:
    """Run `cgddi lora`."""
    parser = stage_parser("lora", __doc__)
    parser.add_argument(
        "--photos", type=Path, nargs="+", required=True, help="masks archives that hold the training images"
    )
    parser.add_argument("--canvases", type=Path, nargs="*", default=[], help="archives of healthy canvases, for priors")
    parser.add_argument("--split", type=Path, help="csv image_id,role: only canvases of role train become priors")
    parser.add_argument("--embedding", type=Path, required=True, help="learned_embeds.safetensors of the concept")
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to write to")
    from cgddi.diffusion.log import engine_options, logs_beside

    state_option(parser)
    engine_options(parser)
    args = parser.parse_args(argv)
    if (status := relaunched("lora", argv, settings_of(LoraSettings, args.spec).num_processes)) is not None:
        return status
    with without_gc():
        from cgddi.job import runtime
        from cgddi.stages.lora.train import LoraJob, train_lora

    device = runtime.start(args.threads)
    metrics = args.metrics if is_main() else None
    with runtime.usage_log(metrics, stage="lora", concept=args.spec.get("concept", {}).get("slug")) as used:
        job = LoraJob(args.spec, args.photos, args.canvases, args.split, args.embedding, args.output_dir)
        train_lora(job, args.state, args.cache, device, logs=logs_beside(args.metrics), used=used)
    return 0
