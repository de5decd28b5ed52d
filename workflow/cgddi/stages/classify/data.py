"""Pictures of an index as batches in memory: decoded once where they fit, by all threads of the job, ahead of the training."""

from __future__ import annotations

import io
import mmap
import os
import sys
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pandas as pd
import torch
from PIL import Image

from cgddi.core.archive import read_member
from cgddi.core.errors import InvalidInput, Problem, UserError, refuse
from cgddi.stages.classify.augment import side_to_keep
from cgddi.stages.classify.cache import DecodedCache
from cgddi.stages.classify.decode import CHUNK, Decoders, Source, View, checksum, decode
from cgddi.stages.classify.settings import ClassifySettings

MEMORY = 8 << 30
"""Bytes of decoded pictures that are kept: 32,000 of 287 px."""

Asked = tuple[str, list[tuple[int, Source]], Future]
"""A task: the file it writes to, slots and pictures, and the result to come."""


class Slots:
    """Pixels of so many pictures, uint8 (count, 3, side, side), in memory that other processes reach by the path `path`. Memory is
    taken when it is written to."""

    def __init__(self, count: int, view: View):
        size = max(1, count) * view.bytes
        handle = os.memfd_create("pictures")
        weakref.finalize(self, os.close, handle)
        os.ftruncate(handle, size)
        self.path = f"/proc/{os.getpid()}/fd/{handle}"
        flat = np.frombuffer(mmap.mmap(handle, size), np.uint8)
        self.pixels = torch.from_numpy(flat.reshape(-1, 3, view.side, view.side))[:count]


class Pictures:
    """Pictures of index rows as one uint8 array, decoded at their first use and kept as far as `memory` allows.

    Each is read when it is first drawn (or by `load`); where not all fit, those drawn first are kept and the others are decoded
    again and again. With a decoded cache all are there from the start, whatever their number. What is read is checked against the
    index (sha256).

    Args:
        rows: index rows with columns id, archive, start, size, sha256.
        fixed: the test view (shorter side to `resize_to`, centre crop to `image_size`), which is never in the decoded cache; else a
            square from which the smallest crop that `random_views` draws still has `resize_to` pixels, unless the archives' own
            pictures are smaller.
        threads: that decode, or processes where there is much to decode.
        memory: bytes.

    Raises:
        UserError: the decoded cache cannot be used.
        InvalidInput: names every picture that is not what the index says, where the decoded cache is to hold it.
    """

    def __init__(self, rows: pd.DataFrame, settings: ClassifySettings, fixed: bool, threads: int, memory: int = MEMORY):
        self.rows = rows[["id", "archive", "start", "size", "sha256"]].to_numpy(dtype=object)
        side = settings.image_size if fixed else min(_largest(rows), side_to_keep(settings))
        self.view = View(side, settings.resize_to if fixed else None)
        self.decoders = Decoders(threads)
        self.pinned = torch.cuda.is_available()
        self.used = 0
        self.unchecked = self.checksums = None
        if settings.decoded_cache and not fixed:
            cache = DecodedCache(settings.decoded_cache, self.view)
            self.kept, self.place, self.checksums = cache.open([*map(self._source, range(len(rows)))], self.decoders)
            self.unchecked = np.ones(len(self.kept), dtype=bool)
        else:
            self.slots = Slots(min(len(rows), memory // self.view.bytes), self.view)
            self.kept, self.place = self.slots.pixels, np.full(len(rows), -1)

    @property
    def side(self) -> int:
        """Side of the pictures in pixels."""
        return self.view.side

    def _source(self, place: int) -> Source:
        return Source(*self.rows[place])

    def load(self) -> Pictures:
        """Read all pictures now, if they fit in memory.

        Raises:
            InvalidInput: names every picture that is not what the index says.
        """
        missing = np.flatnonzero(self.place < 0).tolist()
        if len(self.kept) - self.used < len(missing):
            return self
        work = enumerate(map(self._source, missing), self.used)
        results = list(self.decoders.run(self.slots.path, self.view, work) if missing else [])
        refuse([found for found in results if isinstance(found, Problem)])
        self.place[missing] = np.arange(self.used, self.used + len(missing))
        self.used += len(missing)
        return self

    def __getitem__(self, places: np.ndarray) -> torch.Tensor:
        """Pictures at places (B,): uint8 (B, 3, side, side)."""
        return next(self.batches([places]))

    def batches(self, places: Sequence[np.ndarray]) -> Iterator[torch.Tensor]:
        """Pictures of batch after batch, read while those before are worked on; in page-locked memory beside a GPU.

        Raises:
            InvalidInput: names pictures of a batch that are not what the index says.
        """
        largest = max(map(len, places), default=1)
        ahead = 2 + (2 * self.decoders.count * CHUNK // largest if (self.place < 0).any() else 0)
        passing = Slots((ahead + 1) * largest, self.view)  # for pictures that are not kept
        coming: list[Future] = []
        with ThreadPoolExecutor(
            1
        ) as collector:  # one, so that what a batch asked for is there when a later one needs it
            for number in range(len(places) + ahead):
                if number < len(places):
                    first = number % (ahead + 1) * largest
                    asked, elsewhere = self._ask(places[number], passing, first)
                    coming.append(collector.submit(self._collect, places[number], asked, passing, elsewhere))
                if number >= ahead:
                    yield coming.pop(0).result()

    def _ask(self, batch: np.ndarray, passing: Slots, first: int) -> tuple[list[Asked], dict[int, int]]:
        """Have a batch's missing pictures decoded: into the kept ones while there is room, else into slots from `first` on.

        Returns:
            Tasks, and of each place that is not kept its slot in `passing`.
        """
        kept: list[tuple[int, Source]] = []
        elsewhere: dict[int, int] = {}
        for place in np.unique(batch[self.place[batch] < 0]).tolist():
            if self.used < len(self.kept):
                kept.append((self.used, self._source(place)))
                self.place[place] = self.used
                self.used += 1
            else:
                elsewhere[place] = first + len(elsewhere)
        strange = [(slot, self._source(place)) for place, slot in elsewhere.items()]
        tasks = [
            (path, work[start : start + CHUNK])
            for path, work in ((kept and self.slots.path, kept), (passing.path, strange))
            for start in range(0, len(work), CHUNK)
        ]
        return [(path, work, self.decoders.submit(path, self.view, work)) for path, work in tasks], elsewhere

    def _collect(
        self, batch: np.ndarray, asked: list[Asked], passing: Slots, elsewhere: dict[int, int]
    ) -> torch.Tensor:
        """The pictures of a batch, once they are decoded."""
        results = [found for path, work, task in asked for found in self.decoders.result(task, path, self.view, work)]
        refuse([found for found in results if isinstance(found, Problem)])
        shape = (len(batch), 3, self.side, self.side)
        pixels = torch.empty(shape, dtype=torch.uint8, pin_memory=self.pinned)
        if not elsewhere:
            slots = torch.from_numpy(self.place[batch])
            torch.index_select(self.kept, 0, slots, out=pixels)
        else:
            for number, place in enumerate(batch.tolist()):
                slot = elsewhere.get(place)
                pixels[number] = self.kept[self.place[place]] if slot is None else passing.pixels[slot]
        if self.unchecked is not None:
            self._check(batch, pixels)
        return pixels

    def _check(self, batch: np.ndarray, pixels: torch.Tensor) -> None:
        """Decode afresh what the cache does not hold as it was written; a slot that is whole is looked at once."""
        slots = self.place[batch]
        for number in np.flatnonzero(self.unchecked[slots]).tolist():
            source, slot = self._source(batch[number]), slots[number]
            if checksum(source.digest, pixels[number].numpy()) == self.checksums[slot]:
                self.unchecked[slot] = False
                continue
            print(
                f"decoded cache: slot {slot} is damaged and not used; delete the cache when no run is under way",
                file=sys.stderr,
                flush=True,
            )
            found = decode(source, self.view)
            if isinstance(found, Problem):
                raise InvalidInput([found])
            pixels[number] = torch.from_numpy(found)


def _largest(rows: pd.DataFrame) -> int:
    """Longest side of the archives' own pictures; those of one archive are of one size."""
    native = 1
    for row in rows.drop_duplicates("archive").itertuples(index=False):
        with suppress(OSError, UserError):  # named when it is read
            data = io.BytesIO(read_member(row.archive, row.start, row.size))
            with Image.open(data) as picture:
                native = max(native, *picture.size)
    return native
