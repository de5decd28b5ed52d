"""Learn a concept's token by textual inversion: `learned_embeds.safetensors` and `record.json` in the output folder."""

from pathlib import Path

from cgddi.job.command import stage_parser, state_option
from cgddi.job.imports import without_gc
from cgddi.job.launch import is_main, relaunched
from cgddi.job.spec import settings_of
from cgddi.stages.embedding.settings import EmbeddingSettings


def main(argv: list[str]) -> int:
    """Run `cgddi embedding`."""
    parser = stage_parser("embedding", __doc__)
    parser.add_argument(
        "--photos", type=Path, nargs="+", required=True, help="masks archives that hold the training images"
    )
    parser.add_argument("--output-dir", type=Path, required=True, help="folder to write to")
    from cgddi.diffusion.log import engine_options, logs_beside

    state_option(parser)
    engine_options(parser)
    args = parser.parse_args(argv)
    if (status := relaunched("embedding", argv, settings_of(EmbeddingSettings, args.spec).num_processes)) is not None:
        return status
    with without_gc():
        from cgddi.job import runtime
        from cgddi.stages.embedding.train import TokenJob, train_token

    device = runtime.start(args.threads)
    metrics = args.metrics if is_main() else None
    with runtime.usage_log(metrics, stage="embedding", concept=args.spec.get("concept", {}).get("slug")) as used:
        job = TokenJob(args.spec, args.photos, args.output_dir)
        train_token(job, args.state, args.cache, device, logs=logs_beside(args.metrics), used=used)
    return 0
