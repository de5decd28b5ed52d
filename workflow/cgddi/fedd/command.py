"""The FEDD stages; `cgddi fedd STAGE --help` explains one.

features    activations of the frozen diffusion model for photos
segmenter   train the pixel networks on one subset, and test them
probe       train the malignancy probes of one subset at one timestep
baseline    train a U-Net or a classifier on the same subset
tables      IoU, AUC and F1 by tone, the tone gap, the ablation, and their pictures
convert     turn OpenAI's checkpoint of the 256 px ADM into a diffusers folder
"""

import argparse
from collections.abc import Callable, Sequence
from typing import get_args

from cgddi.core.arguments import command_parser
from cgddi.core.errors import UserError
from cgddi.fedd import settings
from cgddi.job.command import stage_parser, state_option
from cgddi.job.imports import without_gc
from cgddi.job.spec import checked

STUDY_KEYS = ("subset", "train", "validation", "test")


def main(argv: Sequence[str]) -> int:
    """Run `cgddi fedd STAGE`."""
    if not argv or argv[0] in ("-h", "--help"):
        print(f"usage: cgddi fedd STAGE [options]\n\n{__doc__}")
        return 0
    if argv[0] not in STAGES:
        raise UserError(f"no stage {argv[0]!r}. Give one of {', '.join(STAGES)}.")
    STAGES[argv[0]](list(argv[1:]))
    return 0


def _parser(stage: Callable, inputs: str | None = None, output: str = "--output-dir") -> argparse.ArgumentParser:
    """The parser of a stage: spec, threads, usage log, its output, and where it reads some, feature files."""
    name = stage.__name__
    parser = stage_parser(f"fedd {name}", stage.__doc__)
    if inputs:
        parser.add_argument("--features", nargs=inputs, default=[], required=inputs == "+", help="feature files")
    parser.add_argument(output, required=True, help="where to write to")
    parser.add_argument("--metrics", help="log of what the job used (JSON lines)")
    if stage.__name__ in ("segmenter", "probe", "baseline"):
        state_option(parser)
    return parser


def features(argv: Sequence[str]) -> None:
    """Features of a batch of photos at one timestep, from the decoder of a frozen diffusion model.

    The spec holds model, cohort, batch, timestep, crop, rows (image_id, file), maps (decoder blocks kept as maps), pooled
    (whether all blocks are kept as 512 numbers) and showcase (image ids that get cluster pictures).
    """
    args = _parser(features, output="--output").parse_args(argv)
    chosen = checked(
        settings.FeaturesSettings, args.spec, "cohort", "batch", "timestep", "crop", "rows", "model", "pooled"
    )
    if not args.output.endswith(".safetensors"):
        raise UserError(f"--output {args.output}: a feature file ends in .safetensors.")
    with without_gc():
        from cgddi.fedd.features.extract import run_features
    run_features(args.spec, chosen, args.output, args.threads, args.metrics)


def segmenter(argv: Sequence[str]) -> None:
    """Train the pixel networks of one subset on stored features, and test them.

    Writes weights.safetensors, validation.csv and test.csv (pixel counts per photo and class), pictures.safetensors (a few test
    masks beside the truth) and record.json.

    The spec holds variant (plain, reweight or centre), subset, run_seed, size, timestep, blocks, crop, id_map, and the rows
    (image_id, file, mask, skin_tone, malignant) under train, validation and test.
    """
    args = _parser(segmenter, "+").parse_args(argv)
    keys = ("variant", "run_seed", "size", "timestep", "blocks", "crop", *STUDY_KEYS)
    chosen = checked(settings.SegmenterSettings, args.spec, *keys)
    variants = get_args(settings.Variant)
    if args.spec["variant"] not in variants:
        raise UserError(f"no variant {args.spec['variant']!r} of the segmenter. There are {', '.join(variants)}.")
    with without_gc():
        from cgddi.fedd.segmenter.train import run_segmenter
    run_segmenter(args.spec, chosen, args.features, args.output_dir, args.threads, args.metrics, args.state)


def probe(argv: Sequence[str]) -> None:
    """Train the malignancy probes of one subset at one timestep, for all blocks and seeds at once, and test them.

    Writes predictions.csv (image_id, tone, malignant, role, block, seed, probability; validation and test photos) and record.json.

    The spec holds subset, timestep, seeds, and the rows (image_id, skin_tone, malignant)
    under train, validation and test.
    """
    args = _parser(probe, "+").parse_args(argv)
    chosen = checked(settings.ProbeSettings, args.spec, "timestep", "seeds", *STUDY_KEYS)
    with without_gc():
        from cgddi.fedd.probe import run_probe
    run_probe(args.spec, chosen, args.features, args.output_dir, args.threads, args.metrics, args.state)


def baseline(argv: Sequence[str]) -> None:
    """Train a baseline of the study, a U-Net or a malignancy classifier, on the photos of one subset, and test it.

    Writes weights.safetensors, record.json and, for segmentation, test.csv, validation.csv and pictures.safetensors, for
    classification predictions.csv: the formats of the FEDD segmenter and probe.

    The spec holds task, network, subset, run_seed, size, crop, id_map, and the rows (image_id, file, mask, skin_tone, malignant)
    under train, validation and test.
    """
    args = _parser(baseline).parse_args(argv)
    keys = ("task", "network", "run_seed", "size", "crop", *STUDY_KEYS)
    chosen = checked(settings.BaselinesSettings, args.spec, *keys)
    with without_gc():
        from cgddi.fedd.baselines.train import run_baseline
    run_baseline(args.spec, chosen, args.output_dir, args.threads, args.metrics, args.state)


def tables(argv: Sequence[str]) -> None:
    """Tabulate the study: IoU by class and tone, the tone gap, malignancy by block, timestep and tone, and their pictures.

    Writes iou.csv, gap.csv, paired.csv, ablation.csv, classification.csv, table.md, table.tex, plots (png) and summary.json; what
    has no runs is left out. Published figures stand beside ours and are marked where they were reached on other data.

    The spec holds cohort, subsets (name and training photos per tone), timestep and blocks of the segmenter.
    """
    parser = _parser(tables, "*")
    parser.add_argument("--runs", nargs="+", required=True, help="folders of segmenters, probes and baselines")
    args = parser.parse_args(argv)
    chosen = checked(settings.TablesSettings, args.spec, "cohort", "subsets", "timestep", "blocks")
    with without_gc():
        from cgddi.fedd.tables.stage import run_tables
    run_tables(args.spec, chosen, args.runs, args.features, args.output_dir)


def convert(argv: Sequence[str]) -> None:
    """Turn OpenAI's checkpoint of the 256 px unconditional ADM (256x256_diffusion_uncond.pt) into a diffusers folder.

    Only tensors are read from the file; no code in it runs. Name the folder in `models.fedd.source`. --channels, --head-channels
    and --size are for a model of the same layout but another width.
    """
    parser = command_parser("fedd convert", convert.__doc__)
    parser.add_argument("--checkpoint", required=True, help="the original file (.pt, or .safetensors with its names)")
    parser.add_argument("--output-dir", "--output", dest="output", required=True, help="the folder to write")
    parser.add_argument("--channels", type=int, default=256, help="width of the first level (default: 256)")
    parser.add_argument("--head-channels", type=int, default=64, help="channels of an attention head (default: 64)")
    parser.add_argument("--size", type=int, default=256, help="side of the training images in px (default: 256)")
    args = parser.parse_args(argv)
    from cgddi.fedd.features import adm

    adm.convert(args.checkpoint, args.output, adm.unet_config(args.channels, args.head_channels, args.size))


STAGES = {stage.__name__: stage for stage in (features, segmenter, probe, baseline, tables, convert)}
