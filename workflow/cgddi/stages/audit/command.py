"""Audit the images a split may train on, or the pictures of the whole run.

Of a split, KIND is one of: leakage (fails when a training image descends from, equals or nearly equals a held-out one), quality
(flat and black images, colours; FID, KID and LPIPS by tone), tone (skin tone measured against the tone asked for), memorisation
(nearest training image of each semantic image). Of the run: healthy (its skin beside a baseline without a model) or masks (what the
masks are worth; automatic ones against human ones). `cgddi audit convert` turns published weights of FID's Inception or of LPIPS
into safetensors, once.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgddi.core.archive import Archive, record_for, write_record
from cgddi.core.arguments import command_parser
from cgddi.core.errors import UserError
from cgddi.core.labels import labels_of
from cgddi.job.command import stage_parser
from cgddi.job.imports import without_gc
from cgddi.job.spec import settings_of
from cgddi.stages.audit.settings import KINDS, PICTURES, AuditSettings


def main(argv: list[str] | None = None) -> int:
    """Run `cgddi audit KIND`; status 2 when the leakage gate stops the build."""
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["convert"]:
        return convert_weights(argv[1:])
    parser = stage_parser("audit", __doc__)
    parser.add_argument("kind", choices=(*KINDS, *PICTURES), help="which audit")
    parser.add_argument("--index", help="index of the split (.parquet)")
    parser.add_argument("--photos", nargs="*", default=[], help="archives of the photos, with their masks")
    parser.add_argument("--healthy", nargs="*", default=[], help="healthy archives")
    parser.add_argument("--canvases", nargs="*", default=[], help="archives of the kept canvases")
    parser.add_argument("--mapped", nargs="*", default=[], help="archives of the composites")
    parser.add_argument("--output", required=True, help="findings to write: .json of a split, .tar of the run")
    parser.add_argument("--metrics", help="file to append one JSON line on time and memory to")
    args = parser.parse_args(argv)

    settings = settings_of(AuditSettings, args.spec)
    if args.kind in PICTURES:
        with without_gc():
            from cgddi.stages.audit.pictures import audit_healthy, audit_masks

        if args.kind == "healthy":
            audit_healthy(args.spec, args.healthy, args.canvases, args.output)
        else:
            audit_masks(args.spec, args.photos, args.canvases, args.mapped, args.output)
        return 0
    if args.index is None:
        parser.error(f"--index is needed to audit {args.kind}")
    with without_gc():
        import pandas as pd

        from cgddi.job import runtime

    if args.kind == "quality" or settings.features.weights != "pixels":
        runtime.start(args.threads)  # KID is torchmetrics', and features other than thumbnails come from a network
    with runtime.usage_log(args.metrics, stage="audit", kind=args.kind) as usage:
        index, seed, waived = pd.read_parquet(args.index), int(args.spec.get("seed", 0)), args.spec.get("waived", ())
        labels = labels_of(args.spec)
        result = audit(args.kind, index, args.photos, settings, seed, waived, args.threads, labels)
        usage["images"] = result.get("images", 0)
    if args.kind == "quality":
        result["samples"] = checked_samples(args.index)
    inputs = [args.index, *(Archive(path).manifest_path for path in args.photos)]
    record = record_for(args.spec, inputs, **result)
    if args.kind == "leakage" and not result["passed"]:
        from cgddi.stages.audit.leakage import explain

        failed = f"{args.output}.failed.json"
        write_record(failed, record)
        raise UserError(f"{explain(result)}\nAll rows are in {failed}.")
    write_record(args.output, record)
    return 0


def convert_weights(argv: Sequence[str]) -> int:
    """Turn weights as they were published into a .safetensors file, for `audit.inception` or `audit.lpips`.

    FID's Inception is pt_inception-2015-12-05-6726825d.pth (pytorch-fid's release `fid_weights`), LPIPS' trunk torchvision's
    alexnet-owt-7be5be79.pth (or vgg16-397923af.pth); which one it is is told by its tensors. Only tensors are read; no code runs.
    """
    parser = command_parser("audit convert", convert_weights.__doc__)
    parser.add_argument("--checkpoint", required=True, help="the published file (.pth)")
    parser.add_argument("--output", required=True, help="the .safetensors file to write")
    args = parser.parse_args(argv)
    from cgddi.stages.audit.networks import convert

    kind = convert(args.checkpoint, args.output)
    print(f"{args.output}: {kind}, for audit.{'inception' if kind == 'inception' else 'lpips'}")
    return 0


def checked_samples(index: str) -> list[dict[str, Any]]:
    """What the check of samples came to, from the record beside the index."""
    record = Path(index).with_suffix(".json")
    return json.loads(record.read_text(encoding="ascii")).get("samples", []) if record.is_file() else []


def audit(
    kind: str,
    index,
    photos: Sequence[str],
    settings: AuditSettings,
    seed: int,
    waived: Sequence[str] = (),
    threads: int = 1,
    labels: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """Findings of one audit.

    Args:
        waived: given images and adapters whose unknown lineage is no leak.
        threads: that decode pictures, where a GPU works beside them.
        labels: image id -> tone of the held-out photos, for quality.
    """
    if kind == "leakage":
        from cgddi.stages.audit.leakage import audit_leakage

        return audit_leakage(index, settings, seed, photos, waived)
    if kind == "tone":
        from cgddi.stages.audit.quality import audit_tone

        return audit_tone(index, photos, settings)
    if kind == "quality":
        from cgddi.stages.audit.quality import audit_quality

        return audit_quality(index, settings, seed, threads, labels)
    from cgddi.stages.audit.copies import audit_memorisation

    return audit_memorisation(index, settings, seed)
