"""List every image a split may train or test on, with its label, lineage and byte range in the archives.

Synthetic images with an ancestor (donor, canvas, or an image its generator learnt from) outside the split's training images are
left out and counted in the record. Labels are those of the spec; test photos have none there unless `classify.selection` is `test`.
"""

import io
from pathlib import Path

from cgddi.core.archive import Archive, record_for, write_atomic, write_record
from cgddi.core.labels import labels_of
from cgddi.job.command import stage_parser
from cgddi.job.imports import without_gc
from cgddi.job.spec import settings_of
from cgddi.stages.index.settings import IndexSettings


def main(argv: list[str] | None = None) -> int:
    """Run `cgddi index`."""
    parser = stage_parser("index", __doc__)
    parser.add_argument("--splits", nargs="+", required=True, help="role files of the split, one per cohort (csv)")
    parser.add_argument("--photos", nargs="+", required=True, help="archives of the photos (stage masks)")
    parser.add_argument("--healthy", nargs="*", default=[], help="archives of kept healthy images (stage canvases)")
    parser.add_argument("--mapped", nargs="*", default=[], help="archives of lesion-mapped images")
    parser.add_argument("--semantic", nargs="*", default=[], help="archives of semantic images")
    parser.add_argument("--output", required=True, help="the index to write (.parquet; its record is .json beside it)")
    args = parser.parse_args(argv)

    with without_gc():
        from cgddi.stages.index.table import build_index, read_roles

    settings = settings_of(IndexSettings, args.spec)
    synthetic = [*args.healthy, *args.mapped, *args.semantic]
    given = {name: Path(path).with_suffix(".tar") for name, path in args.spec.get("given", {}).items()}
    table, facts = build_index(
        read_roles(args.splits),
        args.photos,
        synthetic,
        settings.drop_touching,
        args.spec.get("drop_concepts", ()),
        given,
        args.spec.get("waived", ()),
        labels_of(args.spec),
    )
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    inputs = [*args.splits, *(Archive(path).manifest_path for path in [*args.photos, *synthetic, *given.values()])]
    write_atomic(args.output, buffer.getvalue())
    write_record(Path(args.output).with_suffix(".json"), record_for(args.spec, inputs, **facts), [args.output])
    return 0
