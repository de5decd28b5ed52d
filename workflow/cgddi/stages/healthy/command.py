"""Paint healthy skin over the lesions and markers of one batch of photos, and score the results.

The spec holds cohort, batch, images (ids with a mask), labels (concept, tone and group of each), seed and, unless settings.method
is heal, model {source, revision, variant}.
"""

from collections.abc import Sequence

from cgddi.core.errors import UserError
from cgddi.job.command import stage_parser
from cgddi.job.imports import without_gc
from cgddi.stages.healthy.settings import HealthySettings


def main(argv: Sequence[str]) -> int:
    """Run `cgddi healthy`."""
    parser = stage_parser("healthy", __doc__)
    parser.add_argument("--photos", required=True, help="the batch's masks archive")
    parser.add_argument("--output", required=True, help="the archive (.tar) to write")
    parser.add_argument(
        "--cache", help="folder that keeps each inpainted photo, for the next try or after a correction"
    )
    parser.add_argument("--metrics", help="file to append one JSON line on time and memory to")
    options = parser.parse_args(argv)
    with without_gc():
        from cgddi.job.runtime import start, usage_log
        from cgddi.job.spec import checked
        from cgddi.job.store import MadeStore
        from cgddi.stages.healthy.stage import inpaint_batch

    spec = options.spec
    settings = checked(HealthySettings, spec, "cohort", "batch", "images")
    if settings.method != "heal" and not (spec.get("model") or {}).get("source"):
        raise UserError("--spec lacks model.source. Name an inpainting model, or set healthy.method: heal.")
    device = start(options.threads)

    def open_inpainter():
        with without_gc():
            from cgddi.stages.healthy.diffusion import DiffusionInpainter

        return DiffusionInpainter(spec["model"], settings, device)

    planned = getattr(spec, "planned", spec)
    facts = [planned.get(name) for name in ("revision", "settings", "seed", "model")]
    kept = MadeStore(options.cache, "healthy", facts, device.type)
    with usage_log(options.metrics, stage="healthy", cohort=spec["cohort"], batch=spec["batch"]) as usage:
        written = inpaint_batch(spec, settings, options.photos, options.output, open_inpainter, kept)
        usage.update(images=written - kept.reused, reused=kept.reused)
    return 0
