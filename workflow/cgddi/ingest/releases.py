"""What others released, image by image: folders, csv and parquet tables, WebDataset shards."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cgddi.core.errors import InvalidInput, Problem, UserError, refuse
from cgddi.ingest.column_map import ColumnMap
from cgddi.ingest.table import check_columns, read_table

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
BATCH = 256
"""Images that are read and written at once."""


class Item(NamedTuple):
    """One image of a source: its path or key there, its row's cells, and where its bytes are (bytes, or a file)."""

    path: str
    cells: Mapping[str, str]
    image: bytes | Path


def items(origins: Sequence[str], chosen: ColumnMap) -> Iterator[Item]:
    """All images of a source, in an order that its names alone decide.

    Raises:
        UserError: a source that is not there, or of no known kind.
        InvalidInput: columns that the map names are missing.
    """
    for origin in origins:
        place = Path(origin)
        if not place.exists():
            raise UserError(f"--from {origin}: no such file or folder.")
        if not place.is_dir():
            yield from _file(place, chosen)
            continue
        files = sorted(path for path in place.rglob("*") if path.is_file() and not path.name.startswith("."))
        shards = [path for path in files if path.suffix in (".tar", ".parquet")]
        tables = [path for path in files if path.name == "metadata.csv"]
        images = [path for path in files if path.suffix.lower() in SUFFIXES]
        if not (shards or tables or images):
            raise UserError(f"--from {origin}: holds no shards, no parquet files, no metadata.csv and no images.")
        if shards or tables:
            for path in shards or tables:
                yield from _file(path, chosen)
        else:
            _need(chosen, [], origin)
            yield from (Item(path.relative_to(place).as_posix(), {}, path) for path in images)


def _file(path: Path, chosen: ColumnMap) -> Iterator[Item]:
    kinds = {".tar": _shard, ".parquet": _parquet, ".csv": _csv, ".tsv": _csv}
    if path.suffix not in kinds:
        raise UserError(f"--from {path}: is no folder, no .csv, no .parquet and no .tar.")
    yield from kinds[path.suffix](path, chosen)


def _need(chosen: ColumnMap, columns: Sequence[str], source: object) -> None:
    absent = sorted(chosen.wanted - {*columns})
    if absent:
        here = f"It has {', '.join(columns)}." if columns else "It has none: images without a table."
        remedy = f"{here} Correct the map's `columns`, or give the file that has them."
        raise InvalidInput([Problem(str(source), f"no column {column}", remedy) for column in absent])


def _csv(path: Path, chosen: ColumnMap) -> Iterator[Item]:
    table = read_table(path)
    refuse(table.problems)
    image = chosen.image or next((c for c in ("image", "file", "file_name", "path") if c in table.columns), "image")
    refuse(check_columns(table, [image], strict=False))
    _need(chosen, table.columns, path)
    yield from (Item(cells[image], cells, path.parent / cells[image]) for _, cells in table.rows)


def _parquet(path: Path, chosen: ColumnMap) -> Iterator[Item]:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{path}: is no parquet file that can be read ({error}).") from error
    names, image = table.schema_arrow.names, chosen.image or "image"
    _need(chosen, names, path)
    if image not in names:
        raise InvalidInput(
            [Problem(str(path), f"no column {image}", f"It has {', '.join(names)}: name one as `image`.")]
        )
    number = 0
    for batch in table.iter_batches(BATCH):
        for row in batch.to_pylist():
            value = row.pop(image)
            name, data = (value.get("path"), value.get("bytes")) if isinstance(value, dict) else (None, value)
            data = path.parent / (data or name or "") if not isinstance(data, bytes) else data
            yield Item(name or f"{path.stem}/{number:07d}", _texts(row), data)
            number += 1


def _shard(path: Path, chosen: ColumnMap) -> Iterator[Item]:
    import json

    import webdataset

    for sample in webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False):
        data = next((sample[name.lstrip(".")] for name in SUFFIXES if name.lstrip(".") in sample), None)
        try:
            cells = _texts(json.loads(sample.get("json", b"{}")))
        except ValueError as error:
            raise UserError(f"{path}: the .json of {sample['__key__']} is no JSON ({error}).") from error
        if data is not None:
            _need(chosen, list(cells), f"{path}, {sample['__key__']}")
            yield Item(sample["__key__"], cells, data)


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    return {str(name): "" if value is None else str(value) for name, value in row.items()}
