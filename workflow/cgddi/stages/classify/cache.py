"""The decoded cache: pictures of a node's runs as uint8 pixels in one memory-mapped file, found by the SHA-256 of their PNG bytes.

`<folder>/<view>.pixels` holds one slot per picture, `<view>.slots` one record per slot: the SHA-256, and a checksum of it and the
pixels. Both only grow, under a lock that the kernel frees on any death; records are written once their pixels are on the disk, what
a killed job left beyond the last whole record is written over, and no pixels are believed that do not have their checksum.
"""

import fcntl
import os
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from cgddi.core.archive import canonical, installed_versions, sha256
from cgddi.core.errors import Problem, UserError, refuse
from cgddi.stages.classify.decode import Decoders, Source, View

RECORD = np.dtype([("digest", "V32"), ("checksum", "<u4")])
BATCH = 2048
"""Pictures after which records are written: what a killed job loses at most."""

LEFT_FREE = 1 << 30
"""Bytes of a disk that the cache leaves free."""


class DecodedCache:
    """Pictures of one view in a folder of this node.

    Args:
        folder: shared by all runs of the node; made if need be.
    """

    def __init__(self, folder: str | Path, view: View):
        self.folder, self.view = Path(folder), view
        made = sha256(canonical([view, installed_versions(["pillow"])]))[:12]
        self._pixels, self._slots = (self.folder / f"{view.side}px-{made}.{part}" for part in ("pixels", "slots"))

    def open(self, sources: Sequence[Source], decoders: Decoders) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        """Pictures, those that are missing decoded first.

        Returns:
            All pixels of the cache, uint8 (slots, 3, side, side), mapped and not read; the slot of each picture, int64 (N,); and
            the checksum of each slot.

        Raises:
            UserError: the folder cannot be used, or the disk is too small.
            InvalidInput: names every picture that is not what the index says.
        """
        keys = [bytes.fromhex(source.digest) for source in sources]
        try:
            records = self._read()
            slots = _places(records)
            if not slots.keys() >= set(keys):
                with self._lock():
                    self._fill(dict(zip(keys, sources, strict=True)), decoders)
                records = self._read()
                slots = _places(records)
            pixels = np.memmap(self._pixels, np.uint8, "r", shape=(len(records), 3, self.view.side, self.view.side))
        except OSError as error:
            raise UserError(
                f"classify.decoded_cache {self.folder}: cannot be used ({error.strerror}). Name a folder on this node's own disk "
                "that all jobs can write, or leave the key out."
            ) from error
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(pixels), np.array([slots[key] for key in keys]), records["checksum"]

    @contextmanager
    def _lock(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(self._slots, os.O_RDWR | os.O_CREAT, 0o664)
        try:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                print(
                    f"decoded cache {self._pixels}: waiting for another job that fills it", file=sys.stderr, flush=True
                )
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _read(self) -> np.ndarray:
        """Records of whole slots."""
        if not self._slots.exists() or not self._pixels.exists():
            return np.empty(0, RECORD)
        data = self._slots.read_bytes()
        whole = min(len(data) // RECORD.itemsize, self._pixels.stat().st_size // self.view.bytes)
        return np.frombuffer(data, RECORD, whole)

    def _fill(self, wanted: dict[bytes, Source], decoders: Decoders) -> None:
        """Decode what is missing into new slots, under the lock."""
        kept = self._read()
        there = _places(kept)
        missing = [source for key, source in wanted.items() if key not in there]
        self._say(len(wanted), len(missing))
        problems: list[Problem] = []
        with open(self._pixels, "ab") as pixels, open(self._slots, "r+b") as slots:
            slots.truncate(kept.nbytes)
            slots.seek(kept.nbytes)
            end = len(kept)
            for start in range(0, len(missing), BATCH):
                part = missing[start : start + BATCH]
                sums = list(decoders.run(str(self._pixels), self.view, enumerate(part, end)))
                if problems := problems + [found for found in sums if isinstance(found, Problem)]:
                    continue  # all of them are named
                os.fsync(pixels.fileno())
                rows = [(bytes.fromhex(source.digest), found) for source, found in zip(part, sums, strict=True)]
                slots.write(np.array(rows, RECORD).tobytes())
                slots.flush()
                os.fsync(slots.fileno())
                end += len(part)
        refuse(problems)

    def _say(self, wanted: int, missing: int) -> None:
        """Say the size before it is made, and refuse what the disk does not hold."""
        need, free = missing * self.view.bytes, shutil.disk_usage(self.folder).free
        text = (
            f"decoded cache {self._pixels}: {wanted:,} pictures of {self.view.side} px, {wanted * self.view.bytes / 1e9:,.1f} GB, "
            f"of which {need / 1e9:,.1f} GB are to be decoded; {free / 1e9:,.1f} GB are free"
        )
        if need > free - LEFT_FREE:
            raise UserError(
                f"{text}. Free some, name a folder on a larger disk in classify.decoded_cache, lower classify.image_size, or "
                "leave the cache out: it changes no number."
            )
        if missing:
            print(text, file=sys.stderr, flush=True)


def _places(records: np.ndarray) -> dict[bytes, int]:
    """SHA-256 -> slot."""
    digests = records["digest"].tobytes()
    return {digests[32 * slot : 32 * slot + 32]: slot for slot in range(len(records))}
