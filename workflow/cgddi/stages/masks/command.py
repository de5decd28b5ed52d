"""Bring photos and their five-class masks to working size: one archive per batch.

Masks come from the mask files of the rows (settings.source human), from the segmenter trained on some of them (fedd), or from
SAM 3 (sam3). Every source writes the same: the photo, its mask, its uncertainty where there is one, and quality flags. An
automatic mask without lesion or skin is not used (`quality.UNUSABLE`): its photo goes on without a mask, as neither donor
nor canvas, and the record says so. To correct automatic masks by hand, see `cgddi masks-export`.

The spec holds rows (image_id, file, mask or null), cohort and batch; for sam3 also model {source, revision}. With --canvases (rule
`skin`) SAM 3 looks for skin on the kept healthy images instead, and their masks alone are written.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgddi.core.errors import UserError
from cgddi.job.command import stage_parser
from cgddi.job.imports import without_gc
from cgddi.stages.masks.settings import MasksSettings

if TYPE_CHECKING:
    from cgddi.stages.masks.stage import MaskPredictor


def main(argv: Sequence[str]) -> int:
    """Run `cgddi masks`."""
    parser = stage_parser("masks", __doc__)
    parser.add_argument("--output", required=True, help="the archive (.tar) to write")
    parser.add_argument("--canvases", help="sam3: the cohort's kept healthy images, on which skin is looked for")
    parser.add_argument("--features", nargs="+", default=[], help="fedd: feature files that hold the batch's photos")
    parser.add_argument("--segmenter", help="fedd: folder of the trained segmenter")
    parser.add_argument("--metrics", help="file to append one JSON line on time and memory to (automatic sources)")
    options = parser.parse_args(argv)
    with without_gc():
        from cgddi.job.spec import checked
        from cgddi.stages.masks.stage import write_batch

    spec = options.spec
    settings = checked(MasksSettings, spec, *(("cohort",) if options.canvases else ("rows", "cohort", "batch")))
    if settings.source == "human":
        write_batch(spec, settings, options.output)
        return 0
    if settings.source == "sam3" and not (spec.get("model") or {}).get("source"):
        raise UserError("--spec lacks model.source. Name SAM 3's folder or hub id (config key models.sam3).")
    from cgddi.job.runtime import start, usage_log

    device = start(options.threads)
    if options.canvases:
        from cgddi.stages.masks.skin import of_skin, write_skin

        with usage_log(options.metrics, stage="masks", cohort=spec["cohort"]) as usage:
            open_predictor = partial(_open_predictor, spec, of_skin(settings), device, options)
            usage["images"] = write_skin(spec, options.canvases, options.output, open_predictor)
        return 0
    with usage_log(options.metrics, stage="masks", cohort=spec["cohort"], batch=spec["batch"]) as usage:
        records = [Path(file).with_suffix(".json") for file in options.features]
        records += [Path(options.segmenter) / "record.json"] if options.segmenter else []
        open_predictor = partial(_open_predictor, spec, settings, device, options)
        there = [path for path in records if path.is_file()]
        usage["masked"] = write_batch(spec, settings, options.output, open_predictor, there)
        usage["images"] = len(spec["rows"])
    return 0


def _open_predictor(spec: Mapping[str, Any], settings: MasksSettings, device: Any, options: Namespace) -> MaskPredictor:
    """The automatic source of a job."""
    with without_gc():
        if settings.source == "sam3":
            from cgddi.job.runtime import torch_dtype
            from cgddi.stages.masks.sam3 import Sam3Predictor, load_sam3

            return Sam3Predictor(settings, *load_sam3(spec["model"], torch_dtype(settings.sam3.precision), device))
        from cgddi.fedd.features.files import FeatureFiles
        from cgddi.stages.masks.fedd import FeddPredictor
    if not (options.features and options.segmenter):
        raise UserError("masks.source fedd needs --features and --segmenter. Give the files the workflow made.")
    return FeddPredictor(settings, FeatureFiles(options.features), options.segmenter, device)
