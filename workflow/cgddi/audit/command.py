"""Audit the images a split may train on.

KIND is one of: leakage (fails when a training image descends from, equals or nearly equals a held-out one), quality (flat and
black images, colours, FID and KID by tone), tone (skin tone measured against the tone asked for), memorisation (nearest
training image of each semantic image).
"""

from __future__ import annotations

from pydantic import ValidationError

from cgddi.artefacts import Archive, record_for, write_record
from cgddi.audit.settings import KINDS, AuditSettings
from cgddi.command import stage_parser
from cgddi.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run `cgddi audit KIND`; status 2 when the leakage gate stops the build."""
    parser = stage_parser("audit", __doc__)
    parser.add_argument("kind", choices=KINDS, help="which audit")
    parser.add_argument("--index", required=True, help="index of the split (.parquet)")
    parser.add_argument(
        "--photos", nargs="*", default=[], help="archives of the photos: their masks show where skin is"
    )
    parser.add_argument("--semantic", nargs="*", default=[], help="archives of semantic images (in the index already)")
    parser.add_argument("--output", required=True, help="findings to write (.json)")
    args = parser.parse_args(argv)

    import pandas as pd

    try:
        settings = AuditSettings(**args.spec.get("settings", {}))
    except ValidationError as error:
        raise UserError(f"settings of stage audit: {error}") from error
    from cgddi import runtime

    runtime.start(args.threads)
    index = pd.read_parquet(args.index)
    seed = int(args.spec.get("seed", 0))
    if args.kind == "leakage":
        from cgddi.audit.leakage import audit_leakage, explain

        result = audit_leakage(index, settings, seed, args.photos)
    elif args.kind == "tone":
        from cgddi.audit.tone import audit_tone

        result = audit_tone(index, args.photos, settings)
    elif args.kind == "quality":
        from cgddi.audit.quality import audit_quality

        result = audit_quality(index, settings, seed)
    else:
        from cgddi.audit.memorisation import audit_memorisation

        result = audit_memorisation(index, settings, seed)
    inputs = [args.index, *(Archive(path).manifest_path for path in args.photos)]
    record = record_for(args.spec, inputs, **result)
    if args.kind == "leakage" and not result["passed"]:
        failed = f"{args.output}.failed.json"
        write_record(failed, record)
        raise UserError(f"{explain(result)}\nAll rows are in {failed}.")
    write_record(args.output, record)
    return 0
