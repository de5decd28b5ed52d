"""A data set folder the Hugging Face `datasets` library reads as WebDataset, with its card and the adapters."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from tqdm import tqdm

from cgddi.core.archive import canonical, read_member, record_for, write_atomic, write_record
from cgddi.core.errors import UserError
from cgddi.job.spec import settings_of
from cgddi.stages.export.settings import ExportSettings

SHARD = 1000
"""Images per shard."""

FIELDS = ["id", "kind", "cohort", "concept", "tone", "malignant", "donor", "canvas", "generator", "sha256"]


def export(
    spec: dict[str, Any], indexes: Sequence[str], loras: Sequence[str], embeddings: Sequence[str], folder: str
) -> None:
    """Write data/<kind>/<n>.tar, adapters/<scope>/<concept>/ and README.md.

    Args:
        spec: the job's spec; its settings are `ExportSettings`.
        indexes: index/<split>.parquet; an image that stands in several is written once.
        loras: adapter files.
        embeddings: token files.
        folder: where to write; shards of an earlier export there are replaced.
    """
    settings = settings_of(ExportSettings, spec)
    target = Path(folder)
    shutil.rmtree(target / "data", ignore_errors=True)
    shutil.rmtree(target / "adapters", ignore_errors=True)
    table = pd.concat([pd.read_parquet(path) for path in indexes]).drop_duplicates("id").sort_values(["kind", "id"])
    table = table[table["kind"].isin(settings.kinds)]
    if table.empty:
        raise UserError(
            f"export.kinds {list(settings.kinds)}: no such image in {', '.join(map(str, indexes))}. Name other kinds."
        )
    for kind, rows in table.groupby("kind", sort=True):
        for start in tqdm(range(0, len(rows), SHARD), desc=f"export {kind}", unit="shard"):
            _write_shard(target / "data" / str(kind) / f"{start // SHARD:05d}.tar", rows.iloc[start : start + SHARD])
    for path in [*loras, *embeddings]:
        scope, concept = Path(path).parts[-3:-1]
        place = target / "adapters" / scope / concept
        place.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place / Path(path).name)
    counts = {str(k): int(v) for k, v in table["kind"].value_counts().sort_index().items()}
    write_atomic(target / "README.md", card(settings, counts, len(loras)))
    write_record(target / "record.json", record_for(spec, indexes, images=counts, adapters=len(loras)))


def _write_shard(path: Path, rows: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, row in enumerate(rows.to_dict("records")):
            fields = {name: None if pd.isna(row[name]) else row[name] for name in FIELDS}
            fields["malignant"] = None if fields["malignant"] is None else bool(fields["malignant"])
            for suffix, data in (
                ("png", read_member(row["archive"], row["start"], row["size"])),
                ("json", canonical(fields).encode()),
            ):
                info = tarfile.TarInfo(f"{number:05d}.{suffix}")
                info.size = len(data)
                tar.addfile(info, BytesIO(data))


def card(settings: ExportSettings, counts: dict[str, int], adapters: int) -> str:
    """The data set card, with the metadata block the hub reads.

    Args:
        settings: name, licence and privacy.
        counts: images by kind.
        adapters: number of LoRA adapters in the export.
    """
    head = {
        "license": settings.license,
        "pretty_name": settings.name,
        "task_categories": ["image-classification"],
        "tags": ["dermatology", "synthetic", "skin-tone"],
        "configs": [{"config_name": kind, "data_files": f"data/{kind}/*.tar"} for kind in counts],
    }
    lines = [
        "---",
        yaml.safe_dump(head, sort_keys=False).strip(),
        "---",
        f"# {settings.name}",
        "",
        "Synthetic dermatology images made by cgDDI-workflow. Not for clinical use.",
        "",
    ]
    if settings.private:
        lines += [
            "**Private.** These images carry pixels of photos whose licence forbids redistribution (DDI: research use only).",
            "Keep this repository private.",
            "",
        ]
    lines += ["| kind | images |", "|---|---|", *[f"| {kind} | {n} |" for kind, n in counts.items()], ""]
    lines += [
        f"Adapters: {adapters}, in `adapters/<scope>/<concept>/`; load them with diffusers' `load_lora_weights` and",
        "`load_textual_inversion`.",
        "",
        "Each image's JSON holds " + ", ".join(f"`{name}`" for name in FIELDS) + ".",
        "",
        "Settings, seeds and input hashes: `record.json`.",
        "",
    ]
    return "\n".join(lines)
