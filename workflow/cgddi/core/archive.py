"""Artefacts: a WebDataset tar, its manifest (JSON lines) and its record (JSON), written deterministically and atomically.

For `x.tar` the manifest is `x.jsonl`, one line per image, and the record is `x.json`: the settings, versions, seeds and input
hashes that made it. Members are plain files named `<key>.<suffix>` (`000001.png`, `000001.mask.png`, `000001.json`), so any
WebDataset reader streams them; the manifest also holds each member's byte range, so that a single image is read without unpacking.
"""

from __future__ import annotations

import csv
import glob
import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Any

from cgddi.core.errors import UserError

AGAIN = "Delete the archive and run the workflow again."
KEY = re.compile(r"[A-Za-z0-9_-]{1,200}(/[A-Za-z0-9_-]{1,200})?")
DISTRIBUTIONS = [
    "accelerate",
    "diffusers",
    "fairlearn",
    "ImageHash",
    "numpy",
    "pandas",
    "peft",
    "pillow",
    "pyarrow",
    "safetensors",
    "scikit-image",
    "scikit-learn",
    "scipy",
    "segmentation_models_pytorch",
    "timm",
    "tokenizers",
    "torch",
    "torchvision",
    "transformers",
]
"""Libraries whose installed versions every record names. They are never compared: what makes a job run again is its spec."""


def canonical(value: Any) -> str:
    """Canonical JSON: sorted keys, no spaces, ASCII only; equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def csv_text(columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as comma-separated text with a header; a column that a row lacks is left empty.

    Raises:
        ValueError: a row has a column that is none of `columns`.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def sha256(data: bytes | str) -> str:
    """Hex SHA-256 of bytes or of a text's UTF-8 bytes."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()


def file_sha256(path: str | Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


_KNOWN: dict[str, list[Any]] = {}
"""Path -> [*stamp, SHA-256], of files that the process which steers the run has read."""


def file_stamp(status: os.stat_result) -> list[int]:
    """What tells that a file is the one of before: its size, and its times in ns of writing and of any change. The latter is the
    system's own, which no `touch`, `cp -p`, `rsync -a` or unzip sets."""
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def know_digests(memory: Path) -> None:
    """Take up what the plan has read (`.plan/digests.json`), so that no job reads a model of gigabytes only to name it."""
    with suppress(OSError, ValueError, TypeError):
        _KNOWN.update(json.loads(memory.read_text(encoding="ascii")))


def known_sha256(path: Path) -> str:
    """SHA-256 of a file; read only where it is not, by size and times, one that the plan or this process has read."""
    stamp, known = file_stamp(path.stat()), _KNOWN.get(str(path))
    if known is None or known[:-1] != stamp:
        _KNOWN[str(path)] = known = [*stamp, file_sha256(path)]
    return known[-1]


def temporary_beside(path: Path, alone: bool = True) -> Path:
    """A hidden name beside a file, unlike that of any other process, thread or node that writes it too.

    Args:
        alone: nobody else writes it now, so what a killed writer left beside it is removed. False where several may write one
            file at a time, and in folders of many files, where looking for such leftovers costs more than they do.
    """
    if alone:
        for left in path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 12}.tmp"):
            left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")


def write_atomic(path: str | Path, data: bytes | str | Iterable[bytes], alone: bool = True) -> None:
    """Write a file so that it is either absent or whole: to a temporary name beside it, flushed, then renamed.

    Args:
        data: its content; as an iterable of bytes it need never be in memory at once.
        alone: see `temporary_beside`.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path, alone)
    try:
        with open(temporary, "wb") as handle:
            handle.writelines([data.encode()] if isinstance(data, str) else [data] if isinstance(data, bytes) else data)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def installed_versions(packages: Iterable[str]) -> dict[str, str]:
    """Versions of the named distributions as installed here; absent ones are left out."""
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def record_for(spec: Mapping[str, Any], inputs: Sequence[str | Path] = (), **facts: Any) -> dict[str, Any]:
    """The record that stands beside a result and explains it.

    Args:
        spec: the job's spec (stage, revision, settings, rows, seed), of which the record holds what was planned.
        inputs: files the job read; their SHA-256 goes into the record, and that of all that the plan lets it read.
        facts: whatever else the stage wants to keep (counts, skipped images, metrics). Nothing that changes from run to
            run on equal input (times, host names): those belong in the log.
    """
    groups = [[files] if isinstance(files, str) else files for files in getattr(spec, "inputs", {}).values()]
    planned = [file for files in groups for file in files if os.path.isfile(file)]
    return {
        "spec": dict(getattr(spec, "planned", spec)),
        "inputs": {path: file_sha256(path) for path in sorted({*map(str, inputs), *planned})},
        "installed": installed_versions(DISTRIBUTIONS),
        **facts,
    }


def write_record(path: str | Path, record: Mapping[str, Any], beside: Iterable[str | Path] = ()) -> None:
    """Write a record as readable JSON with sorted keys, last of all that a job writes.

    Args:
        record: see `record_for`.
        beside: the files that it explains, in its own folder; their sizes and hashes go into it as `outputs`.
    """
    outputs = {
        output_name(path, file): {"bytes": os.path.getsize(file), "sha256": file_sha256(file)}
        for file in sorted(beside)
    }
    whole = dict(record) | ({"outputs": outputs} if outputs else {})
    write_atomic(path, json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=True) + "\n")


def output_name(record: str | Path, file: str | Path) -> str:
    """What a record calls a file beside it: its name, or of `x.tar` beside `x.json` the ending."""
    return Path(file).name.removeprefix(Path(record).stem)


def is_whole(path: str | Path, digest: str) -> bool:
    """Whether a file has a SHA-256; read once per node, and then known by its path, size and times."""
    path = Path(path).absolute()
    known = Path(tempfile.gettempdir()) / f"cgddi-{os.getuid()}" / "whole"
    mark = known / sha256(canonical([str(path), *file_stamp(path.stat()), digest]))
    try:
        known.mkdir(mode=0o700, parents=True, exist_ok=True)
        own = known.stat().st_uid == os.getuid()
    except OSError:
        own = False
    if own and mark.exists():
        return True
    if file_sha256(path) != digest:
        return False
    if own:
        with suppress(OSError):
            mark.touch()
    return True


class ArchiveWriter:
    """Write one archive, its manifest and its record; the record comes last, and holds the hashes of the others.

    Use as a context manager. Members are stored with fixed times and owners, so equal content gives equal bytes.

    Args:
        spec: the job's spec, kept in the record.
        inputs: files the job read, hashed into the record.
    """

    def __init__(self, path: str | Path, spec: Mapping[str, Any], inputs: Sequence[str | Path] = ()):
        self.path = Path(path)
        if self.path.suffix != ".tar":
            raise ValueError(f"an archive ends in .tar: {self.path}")
        self.spec, self.inputs = spec, list(inputs)
        self.facts: dict[str, Any] = {}
        self.skipped: list[dict[str, str]] = []
        self._lines: list[str] = []
        self._keys: set[str] = set()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = temporary_beside(self.path)
        self._tar = tarfile.open(self._temporary, "w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 (closed in __exit__)

    def add(self, key: str, members: Mapping[str, bytes], row: Mapping[str, Any]) -> None:
        """Add one sample.

        Args:
            key: unique in this archive; letters, digits, `_` and `-`, or two such names as `a/b`, which unpack into folders.
            members: suffix -> bytes; "png" is the image, "mask.png" its five-class mask.
            row: the sample's manifest row (id, kind, cohort, concept, tone, malignant, donor, canvas, ...), JSON values.
        """
        if not KEY.fullmatch(key) or key in self._keys:
            raise ValueError(f"archive key {key!r} is unsafe or not unique in {self.path}")
        self._keys.add(key)
        row = {"key": key, **row}
        if "png" in members:
            row["sha256"] = sha256(members["png"])
        places = {}
        for suffix, data in [*members.items(), ("json", canonical(row).encode())]:
            info = tarfile.TarInfo(f"{key}.{suffix}")
            info.size = len(data)
            start = self._tar.offset + tarfile.BLOCKSIZE
            self._tar.addfile(info, io.BytesIO(data))
            if suffix != "json":
                places[suffix] = [start, len(data)]
        self._lines.append(canonical({**row, "members": places}))

    def skip(self, image: str, reason: str) -> None:
        """Record an image that gave no sample, with the reason."""
        self.skipped.append({"id": image, "reason": reason})

    def __len__(self) -> int:
        return len(self._lines)

    def __enter__(self) -> ArchiveWriter:
        return self

    def __exit__(self, error: type | None, *_: Any) -> None:
        try:
            self._tar.close()
            if error is None:
                self._put_in_place()
        finally:
            self._temporary.unlink(missing_ok=True)

    def _put_in_place(self) -> None:
        manifest, record = self.path.with_suffix(".jsonl"), self.path.with_suffix(".json")
        try:
            os.replace(self._temporary, self.path)
            write_atomic(manifest, "".join(line + "\n" for line in self._lines))
            facts = {"images": len(self._lines), "skipped": self.skipped, **self.facts}
            write_record(record, record_for(self.spec, self.inputs, **facts), [self.path, manifest])
        except BaseException:  # no mixture of this archive and the one before
            for part in (self.path, manifest, record):
                part.unlink(missing_ok=True)
            raise


class Archive:
    """Read an archive by its manifest.

    It is believed only whole: the manifest must be the one the record names, with as many lines as that counts images, and before
    the first member is read the tar must have the hash in the record (see `is_whole`).

    Args:
        path: `x.tar`, or its manifest `x.jsonl` or record `x.json`; the three lie side by side.

    Raises:
        UserError: a part is missing, or the parts do not agree.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path).with_suffix(".tar")
        for part in (self.path, self.manifest_path, self.record_path):
            if not part.is_file():
                raise UserError(f"{part}: missing. Run the workflow again; it makes what is missing.")

    @property
    def manifest_path(self) -> Path:
        return self.path.with_suffix(".jsonl")

    @property
    def record_path(self) -> Path:
        return self.path.with_suffix(".json")

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Manifest rows, in the archive's order."""
        data = self.manifest_path.read_bytes()
        rows, count = [json.loads(line) for line in data.splitlines()], self.record.get("images")
        if count is not None and len(rows) != count:
            raise UserError(f"{self.manifest_path}: lists {len(rows)} images, its record {count}. {AGAIN}")
        named = self.record.get("outputs", {}).get(self.manifest_path.suffix)
        if named and sha256(data) != named["sha256"]:
            raise UserError(f"{self.manifest_path}: is not the manifest that its record names (sha256). {AGAIN}")
        return rows

    @cached_property
    def record(self) -> dict[str, Any]:
        """The record that stands beside the archive."""
        return json.loads(self.record_path.read_text(encoding="ascii"))

    @cached_property
    def whole(self) -> bool:
        """Whether the tar has the hash in the record, and so every member is what was written; an error where it has not."""
        named = self.record.get("outputs", {}).get(self.path.suffix)
        if named and not (self.path.stat().st_size == named["bytes"] and is_whole(self.path, named["sha256"])):
            raise UserError(f"{self.path}: is not the archive that its record names (sha256). {AGAIN}")
        return named is not None

    def read(self, row: Mapping[str, Any], suffix: str = "png", verify: bool = True) -> bytes:
        """Bytes of one member of a sample; those of an image are checked against the manifest's SHA-256 too."""
        start, size = row["members"][suffix]
        data = read_member(self.path, start, size)
        if verify and suffix == "png" and sha256(data) != row["sha256"]:
            raise UserError(f"{self.path}: image {row['key']} does not match its manifest (sha256). {AGAIN}")
        _ = verify and self.whole
        return data


def read_member(path: str | Path, start: int, size: int) -> bytes:
    """Bytes of one archive member by its byte range (see `members` in the manifest)."""
    with open(path, "rb") as handle:
        handle.seek(start)
        data = handle.read(size)
    if len(data) != size:
        raise UserError(
            f"{path}: ends at byte {start + len(data)}, before a member its manifest names. Delete it and run again."
        )
    return data
