"""From bytes in an archive to pixels in a file or in memory: what the decoding processes run. Light: each imports it."""

import io
import multiprocessing
import os
import signal
import struct
import sys
import threading
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import NamedTuple

import numpy as np
from PIL import Image

from cgddi.core.archive import read_member, sha256
from cgddi.core.errors import Problem, UserError

CHUNK = 16
"""Pictures per task: enough that asking for it costs little beside the work, some 1.5 ms a picture of 256 px."""

PATIENCE = 1024
"""Pictures that threads decode before processes are started: these take a second or two, longer than all work of a small job."""


class Source(NamedTuple):
    """A picture by its name, the bytes that it has in an archive, and their SHA-256."""

    name: str
    archive: str
    start: int
    size: int
    digest: str


class View(NamedTuple):
    """What is kept of a picture: resampled (bilinear) to a square of `side` px, or, where `resize` is given, its shorter side to
    `resize` px and the square of `side` px at its centre."""

    side: int
    resize: int | None = None

    @property
    def bytes(self) -> int:
        """Size of its pixels."""
        return 3 * self.side**2


def decode(source: Source, view: View) -> np.ndarray | Problem:
    """Pixels of one picture, uint8 (3, side, side), or what is wrong with it."""
    again = "Delete the archive and run the workflow again."
    name, archive = source.name, source.archive
    try:
        data = read_member(archive, source.start, source.size)
        if sha256(data) != source.digest:
            return Problem(archive, f"image {name} is not what the index says (sha256)", again)
        pixels = plain_png(data)
        if pixels is None:
            with Image.open(io.BytesIO(data)) as picture:
                pixels = np.array(picture.convert("RGB"))
        if pixels.shape[:2] != (view.side, view.side) or view.resize is not None:
            pixels = _shown(Image.fromarray(pixels), view)
    except UserError:
        return Problem(archive, f"the archive ends before image {name}", again)
    except FileNotFoundError:
        return Problem(archive, "the archive is missing", again)
    except OSError as error:
        return Problem(archive, f"image {name} cannot be read ({error})", again)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def plain_png(data: bytes) -> np.ndarray | None:
    """Pixels of RGB PNG bytes as `core.images.encode_png` writes them, (H, W, 3), in four fifths of Pillow's time; None where they
    are written in another way."""
    if data[:16] != b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" or len(data) < 41:
        return None
    width, height, *form = struct.unpack_from(">IIBBBBB", data, 16)
    size, kind = struct.unpack_from(">I4s", data, 33)
    if form != [8, 2, 0, 0, 0] or kind != b"IDAT" or data[size + 49 : size + 53] != b"IEND":
        return None
    line = 3 * width + 1
    try:
        plain = zlib.decompressobj().decompress(memoryview(data)[41 : 41 + size], height * line)
    except zlib.error:
        return None
    lines = np.frombuffer(bytearray(plain), np.uint8)
    if len(lines) != height * line or not height:
        return None
    lines = lines.reshape(height, line)
    if (lines[:, 0] != 2).any():  # filter "up": each byte less the one above it
        return None
    above = lines[0]
    for below in lines[1:]:
        np.add(below, above, below)
        above = below
    return lines[:, 1:].reshape(height, width, 3)


def _shown(picture: Image.Image, view: View) -> np.ndarray:
    """Pixels (side, side, 3) of an RGB picture; the test view as torchvision's `Resize` and `CenterCrop` have it."""
    if view.resize is not None:
        width, height = picture.size
        short, long = sorted(picture.size)
        long = int(view.resize * long / short)
        width, height = (view.resize, long) if width <= height else (long, view.resize)
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BILINEAR)
        left, top = round((width - view.side) / 2), round((height - view.side) / 2)
        picture = picture.crop((left, top, left + view.side, top + view.side))
    elif picture.size != (view.side, view.side):
        picture = picture.resize((view.side, view.side), Image.Resampling.BILINEAR)
    return np.array(picture)


def decode_into(path: str, view: View, work: Sequence[tuple[int, Source]]) -> list[int | Problem]:
    """Decode pictures and write each to its place in a file: what one task does.

    Args:
        path: the file, which may be memory that another process holds (`/proc/PID/fd/N`).
        work: slots of `view.bytes` in the file, and pictures.

    Returns:
        Of each picture the checksum (see `checksum`), or what is wrong with it.
    """
    found: list[int | Problem] = []
    handle = os.open(path, os.O_WRONLY)
    try:
        for slot, source in work:
            pixels = decode(source, view)
            if isinstance(pixels, Problem):
                found.append(pixels)
                continue
            left, at = memoryview(pixels).cast("B"), slot * view.bytes
            while left:
                done = os.pwrite(handle, left, at)
                left, at = left[done:], at + done
            found.append(checksum(source.digest, pixels))
    finally:
        os.close(handle)
    return found


def checksum(digest: str, pixels: np.ndarray) -> int:
    """CRC-32 of the PNG's SHA-256 and its pixels."""
    return zlib.crc32(pixels, zlib.crc32(bytes.fromhex(digest)))


def _begin() -> None:
    """In a new process: Ctrl-C is the parent's business, and none outlives it, however it dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def end_with_parent() -> None:
        multiprocessing.parent_process().join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


class Decoders:
    """Threads, and where there is much to decode processes, that decode pictures.

    Processes are spawned, since a fork after CUDA's start is no process to work in, and decode beside the thread that drives the
    GPU, which threads would keep waiting for Python's lock.
    """

    def __init__(self, count: int):
        self.count = max(1, count)
        self._asked, self._broken = 0, False
        self._threads = ThreadPoolExecutor(self.count)
        self._processes: ProcessPoolExecutor | None = None

    def submit(self, path: str, view: View, work: Sequence[tuple[int, Source]]) -> Future:
        """Ask for pictures; see `decode_into`."""
        self._asked += len(work)
        if self._processes is None and self._asked > PATIENCE and self.count > 1:
            spawn = multiprocessing.get_context("spawn")
            self._processes = ProcessPoolExecutor(self.count, mp_context=spawn, initializer=_begin)
        try:
            return (self._processes or self._threads).submit(decode_into, path, view, work)
        except BrokenProcessPool:
            return self._threads.submit(decode_into, path, view, work)

    def result(self, asked: Future, path: str, view: View, work: Sequence[tuple[int, Source]]) -> list[int | Problem]:
        """What was asked for; decoded here where the process was killed, which a scheduler does to all of a job that is to end."""
        try:
            return asked.result()
        except BrokenProcessPool:
            if not self._broken:
                self._broken = True
                print("a decoding process was killed; threads go on in its stead", file=sys.stderr, flush=True)
            return decode_into(path, view, work)

    def run(self, path: str, view: View, work: Iterable[tuple[int, Source]]) -> Iterator[int | Problem]:
        """Results of any number of pictures, in their order; a few tasks at a time are under way."""
        asked: list[tuple[Future, list[tuple[int, Source]]]] = []
        work = iter(work)
        while True:
            while len(asked) < 4 * self.count and (part := list(islice(work, CHUNK))):
                asked.append((self.submit(path, view, part), part))
            if not asked:
                return
            first, part = asked.pop(0)
            yield from self.result(first, path, view, part)
