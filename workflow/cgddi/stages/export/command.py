"""Write what leaves the lab: a Hugging Face data set (parquet and WebDataset shards by kind), its card, and adapters for
diffusers."""

import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgddi.core.archive import canonical, csv_text, record_for, write_atomic, write_record
from cgddi.core.errors import UserError
from cgddi.core.labels import labels_of, with_labels
from cgddi.job.command import stage_parser
from cgddi.job.spec import settings_of
from cgddi.stages.export.adapters import export_adapters
from cgddi.stages.export.card import Contents, card, croissant
from cgddi.stages.export.rows import counted, exported
from cgddi.stages.export.settings import ExportSettings
from cgddi.stages.export.shards import write_parquet, write_tars

WRITERS = {"parquet": ("data", write_parquet), "webdataset": ("webdataset", write_tars)}
"""Format -> folder and writer."""


def main(argv: list[str]) -> int:
    """Run `cgddi export`."""
    parser = stage_parser("export", __doc__)
    parser.add_argument("--index", required=True, help="index/<split>.parquet")
    parser.add_argument("--lora", nargs="*", default=[], help="lora/<scope>/<concept>/pytorch_lora_weights.safetensors")
    parser.add_argument(
        "--embedding", nargs="*", default=[], help="embedding/<scope>/<concept>/learned_embeds.safetensors"
    )
    parser.add_argument("--output-dir", required=True, help="folder to write")
    args = parser.parse_args(argv)
    export(args.spec, args.index, args.lora, args.embedding, Path(args.output_dir))
    return 0


def export(
    spec: Mapping[str, Any], index: str | Path, loras: Sequence[str], embeddings: Sequence[str], folder: Path
) -> None:
    """Write data/<kind>/<role>-*.parquet, webdataset/<kind>/<role>-*.tar, adapters/<scope>/<concept>/, split.csv,
    croissant.json and README.md.

    Args:
        spec: the job's spec; its settings are `ExportSettings`, `names` joins concepts with the names of their diseases.
        folder: where to write; what an earlier export left there is replaced.

    Raises:
        UserError: there is no image of the kinds asked for, or one is not what the index says.
    """
    import pandas as pd
    from tqdm import tqdm

    settings = settings_of(ExportSettings, spec)
    table = with_labels(pd.read_parquet(index), labels_of(spec))
    ours = table[table["source"].isin(settings.kinds)]  # images that others generated are not ours to give away
    if ours.empty:
        raise UserError(f"export.kinds {list(settings.kinds)}: no such image in {index}. Name other kinds.")
    for name in ("data", "webdataset", "adapters"):
        shutil.rmtree(folder / name, ignore_errors=True)
    contents = Contents()
    with tqdm(total=len(ours) * len(settings.formats), desc="export", unit="image") as bar:
        for kind, role, images in exported(ours, spec.get("names", {})):
            contents.add(kind, role, counted(images))
            for form in settings.formats:
                place, write = WRITERS[form]
                write(folder / place / kind, role, images, bar.update)
    photos = table[table["source"] == "real"].sort_values("image_id")[["image_id", "role"]].to_dict("records")
    write_atomic(folder / "split.csv", csv_text(("image_id", "role"), photos))
    adapters = export_adapters(loras, embeddings, folder / "adapters", settings, spec.get("base_model"))
    if "parquet" in settings.formats:
        write_atomic(folder / "croissant.json", canonical(croissant(settings, contents, folder)))
    write_atomic(folder / "README.md", card(settings, contents, len(adapters), spec))
    counts = Counter()
    for (kind, _), per in contents.counts.items():
        counts[kind] += sum(per.values())
    record = record_for(spec, [index], images=dict(counts), adapters=len(adapters))
    write_record(folder / "record.json", record, [folder / "README.md"])
