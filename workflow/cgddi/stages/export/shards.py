"""Shards of the data set: parquet with declared columns, and WebDataset tars. Equal images give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cgddi.core.archive import canonical, temporary_beside
from cgddi.stages.export.rows import COLUMNS, IMAGES, ExportedImage

if TYPE_CHECKING:
    import pyarrow as pa

SHARD = 1000
"""Images per shard."""
GROUP = 100
"""Images per row group of a parquet file: what a reader must load to see one."""
MALIGNANCY = {True: "malignant", False: "benign", None: "unknown"}


def parts(images: Sequence[ExportedImage]) -> Iterator[tuple[int, int, Sequence[ExportedImage]]]:
    """Number of a shard, number of the first image and the images, shard by shard."""
    for number, start in enumerate(range(0, len(images), SHARD)):
        yield number, start, images[start : start + SHARD]


def write_parquet(folder: Path, role: str, images: Sequence[ExportedImage], tick: Callable[[int], Any]) -> None:
    """Write <role>-00000-of-00003.parquet and on.

    The columns' types stand in the files, not only on the card, so a shard without a single malignancy reads like the others.

    Args:
        role: train, validation or test.
        tick: told how many images were written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    form, count = schema(), -(-len(images) // SHARD)
    folder.mkdir(parents=True, exist_ok=True)
    for number, _, some in parts(images):
        path = folder / f"{role}-{number:05d}-of-{count:05d}.parquet"
        temporary = temporary_beside(path)
        with pq.ParquetWriter(temporary, form, compression="zstd", use_dictionary=False) as writer:
            for start in range(0, len(some), GROUP):
                group = some[start : start + GROUP]
                writer.write_table(pa.Table.from_pylist([_parquet_row(image) for image in group], form))
                tick(len(group))
        temporary.replace(path)


def schema() -> pa.Schema:
    """Arrow's schema of `COLUMNS`, with the hub's own description of them as `datasets` keeps it."""
    import pyarrow as pa

    types = {
        "image": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "string": pa.string(),
        "bool": pa.bool_(),
        "int64": pa.int64(),
    }
    features = {
        name: {"_type": "Image"} if kind == "image" else {"dtype": kind, "_type": "Value"}
        for name, kind in COLUMNS.items()
    }
    told = json.dumps({"info": {"features": features}})
    return pa.schema([(name, types[kind]) for name, kind in COLUMNS.items()], metadata={"huggingface": told})


def _parquet_row(image: ExportedImage) -> dict[str, Any]:
    data, name = image.bytes(), image.facts["id"].replace("/", "-")
    pictures = {kind: data[kind] and {"bytes": data[kind], "path": f"{name}.{kind}.png"} for kind in IMAGES}
    return {**image.facts, **pictures}


def write_tars(folder: Path, role: str, images: Sequence[ExportedImage], tick: Callable[[int], Any]) -> None:
    """Write <role>-00000.tar and on: of each image <key>.png, where it has one <key>.mask.png, and <key>.json.

    A key stands in no other tar of the export. No value of the json is null, and each is of one type, so that readers who guess
    types from the first samples guess right: missing text is empty, a missing seed -1, and `malignancy` is malignant, benign
    or unknown.

    Args:
        folder: where to; its name is the images' kind.
        role: train, validation or test.
        tick: told how many images were written.
    """
    import webdataset

    folder.mkdir(parents=True, exist_ok=True)
    for number, start, some in parts(images):
        path = folder / f"{role}-{number:05d}.tar"
        temporary = temporary_beside(path)
        with (
            open(temporary, "wb") as handle,
            webdataset.TarWriter(handle, encoder=False, mtime=0, mode=0o644, user="", group="") as shard,
        ):
            for place, image in enumerate(some, start):
                data = image.bytes()
                told = dict(image.facts)
                told["malignancy"] = MALIGNANCY[told.pop("malignant")]
                told["seed"] = -1 if told["seed"] is None else told["seed"]
                told = {name: "" if value is None else value for name, value in told.items()}
                sample = {"__key__": f"{folder.name}-{role}-{place:07d}", "png": data["image"]}
                sample |= {"mask.png": data["mask"]} if data["mask"] else {}
                shard.write(sample | {"json": canonical(told).encode()})
        temporary.replace(path)
        tick(len(some))
