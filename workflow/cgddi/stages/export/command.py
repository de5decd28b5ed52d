"""Write what leaves the lab: a Hugging Face data set (WebDataset shards by kind) and adapters in diffusers' layout."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cgddi.core.archive import canonical, read_member, record_for, sha256, write_atomic, write_record
from cgddi.core.errors import UserError
from cgddi.core.labels import labels_of, with_labels
from cgddi.job.command import stage_parser
from cgddi.job.spec import settings_of
from cgddi.stages.export.settings import ExportSettings

SHARD = 1000
"""Images per shard."""
FIELDS = ("id", "kind", "cohort", "concept", "tone", "donor", "canvas", "generator", "sha256")
MALIGNANCY = {True: "malignant", False: "benign"}


def main(argv: list[str]) -> int:
    """Run `cgddi export`."""
    parser = stage_parser("export", __doc__)
    parser.add_argument("--index", nargs="+", required=True, help="index/<split>.parquet")
    parser.add_argument("--lora", nargs="*", default=[], help="lora/<scope>/<concept>/pytorch_lora_weights.safetensors")
    parser.add_argument(
        "--embedding", nargs="*", default=[], help="embedding/<scope>/<concept>/learned_embeds.safetensors"
    )
    parser.add_argument("--output-dir", required=True, help="folder to write")
    args = parser.parse_args(argv)
    export(args.spec, args.index, args.lora, args.embedding, Path(args.output_dir))
    return 0


def export(
    spec: Mapping[str, Any], indexes: Sequence[str], loras: Sequence[str], embeddings: Sequence[str], folder: Path
) -> None:
    """Write data/<kind>/<n>.tar, adapters/<scope>/<concept>/ and README.md.

    Args:
        spec: the job's spec; its settings are `ExportSettings`.
        indexes: index/<split>.parquet; an image that stands in several is written once.
        loras: adapter files.
        embeddings: token files.
        folder: where to write; shards of an earlier export there are replaced.
    """
    import pandas as pd

    settings = settings_of(ExportSettings, spec)
    shutil.rmtree(folder / "data", ignore_errors=True)
    shutil.rmtree(folder / "adapters", ignore_errors=True)
    tables = [with_labels(pd.read_parquet(path), labels_of(spec)) for path in indexes]
    table = pd.concat(tables).drop_duplicates("id").sort_values(["kind", "id"])
    table = table[table["source"].isin(settings.kinds)]  # images that others generated are not ours to give away
    if table.empty:
        raise UserError(
            f"export.kinds {list(settings.kinds)}: no such image in {', '.join(map(str, indexes))}. Name other kinds."
        )
    for kind, rows in table.groupby("kind", sort=True):
        rows = rows.astype(object).where(rows.notna(), None).to_dict("records")
        write_shards(folder / "data" / str(kind), rows)
    for path in map(Path, [*loras, *embeddings]):
        place = folder / "adapters" / path.parts[-3] / path.parts[-2]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place / path.name)
    counts = {str(kind): int(count) for kind, count in table["kind"].value_counts().sort_index().items()}
    write_atomic(folder / "README.md", card(settings, counts, len(loras)))
    write_record(
        folder / "record.json", record_for(spec, indexes, images=counts, adapters=len(loras)), [folder / "README.md"]
    )


def write_shards(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write 00000.tar and on, of `SHARD` images each: <number>.png and <number>.json, numbered through all shards of the folder.

    No value is null, so that readers who guess types from the first samples guess right. Equal images give equal bytes.

    Args:
        folder: where to.
        rows: of the index, with None for what is missing.

    Raises:
        UserError: an image is not what the index says.
    """
    import webdataset
    from tqdm import tqdm

    folder.mkdir(parents=True, exist_ok=True)
    for start in tqdm(range(0, len(rows), SHARD), desc=f"export {folder.name}", unit="shard"):
        path = folder / f"{start // SHARD:05d}.tar"
        with webdataset.TarWriter(str(path), encoder=False, mtime=0, mode=0o644, user="", group="") as shard:
            for number, row in enumerate(rows[start : start + SHARD], start):
                png = read_member(row["archive"], row["start"], row["size"])
                if sha256(png) != row["sha256"]:
                    raise UserError(
                        f"{row['archive']}: image {row['id']} does not match the index (sha256). Delete the archive and run again."
                    )
                facts = {name: row[name] or "" for name in FIELDS}
                facts["malignancy"] = MALIGNANCY.get(row["malignant"], "unknown")
                shard.write({"__key__": f"{number:07d}", "png": png, "json": canonical(facts).encode()})


def card(settings: ExportSettings, counts: Mapping[str, int], adapters: int) -> str:
    """The data set card, with the metadata block the hub reads.

    Args:
        settings: name, licence and privacy.
        counts: images by kind.
        adapters: number of LoRA adapters in the export.
    """
    import yaml

    head = {
        "license": settings.license,
        "pretty_name": settings.name,
        "task_categories": ["image-classification"],
        "tags": ["dermatology", "synthetic", "skin-tone"],
        "configs": [{"config_name": kind, "data_files": f"data/{kind}/*.tar"} for kind in counts],
    }
    private = """**Private.** These images carry pixels of photos whose licence forbids redistribution (DDI: research use only).
Keep this repository private.

"""
    table = "\n".join(f"| {kind} | {count} |" for kind, count in counts.items())
    return f"""---
{yaml.safe_dump(head, sort_keys=False).strip()}
---
# {settings.name}

Synthetic dermatology images made by cgDDI-workflow. Not for clinical use.

{private if settings.private else ""}| kind | images |
|---|---|
{table}

Adapters: {adapters}, in `adapters/<scope>/<concept>/`; load them with diffusers' `load_lora_weights` and
`load_textual_inversion`.

Each image's JSON holds {", ".join(f"`{name}`" for name in FIELDS)} (empty where there is none) and `malignancy`
(`malignant`, `benign` or `unknown`).

Settings, seeds and input hashes: `record.json`.
"""
