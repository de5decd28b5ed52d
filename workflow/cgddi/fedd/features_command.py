"""Features of a batch of photos at one timestep, from the decoder of a frozen diffusion model.

The spec holds model, cohort, batch, timestep, crop, rows (image_id, file), maps (decoder blocks kept as maps), pooled (blocks kept
as 512 numbers; null: all) and showcase (image ids that get cluster pictures).
"""

from __future__ import annotations

from collections.abc import Sequence

from cgddi.core.errors import UserError
from cgddi.fedd.settings import FeaturesSettings
from cgddi.job.command import stage_parser
from cgddi.job.imports import importing


def main(argv: Sequence[str]) -> int:
    """Run `cgddi fedd features`."""
    parser = stage_parser("fedd features", __doc__)
    parser.add_argument("--output", required=True, help="the feature file (.safetensors) to write")
    parser.add_argument("--metrics", help="file to append one JSON line on time and memory to")
    options = parser.parse_args(argv)
    from cgddi.job.spec import checked

    spec = options.spec
    settings = checked(FeaturesSettings, spec, "cohort", "batch", "timestep", "crop", "rows", "model")
    if not options.output.endswith(".safetensors"):
        raise UserError(f"--output {options.output}: a feature file ends in .safetensors.")
    if not (spec["model"] or {}).get("source"):
        raise UserError("--spec lacks model.source. Name a diffusers folder in models.fedd.source.")
    with importing():
        from cgddi.fedd import backbones, features, features_io
        from cgddi.job.runtime import start, usage_log

    facts = {"stage": "fedd_features", "cohort": spec["cohort"], "batch": spec["batch"], "timestep": spec["timestep"]}
    with usage_log(options.metrics, **facts) as usage:
        photos = features.read_batch(spec["rows"], settings.size, spec["crop"])
        backbone = backbones.load(spec["model"], start(options.threads))
        count = len(backbone.decoder_blocks)
        pooled = range(count) if spec.get("pooled") is None else spec["pooled"]
        found = features.extract(
            backbone,
            photos,
            int(spec["seed"]),
            int(spec["timestep"]),
            spec.get("maps") or [],
            pooled,
            spec.get("showcase") or [],
            settings.batch,
        )
        features_io.write_features(
            options.output,
            found,
            spec,
            [row["file"] for row in spec["rows"]],
            model=backbone.digest,
            size=settings.size,
            timestep=backbone.clip(spec["timestep"]),
            crop=spec["crop"],
            blocks=count,
        )
        usage["images"] = len(found)
    return 0
