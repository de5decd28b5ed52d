"""Exact placement of a lesion: all allowed positions at once, as one long integer, and a uniform draw among them.

A mask of H x W is one Python integer, a bit per pixel, rows of W + 1 bits (the last bit of a row is always 0). The positions at
which a shape fits into a region are the region's erosion by the shape: the AND, over the shape's horizontal runs, of the region
eroded by the run's length and shifted by the run's offset. Erosions by a run of n pixels come from doubling (2, 4, 8 ... pixels).
A shape of R runs thus costs some 2R shifts and ANDs over H*W/8 bytes, whatever its area, and the result is exact.

"At least `padding` px inside the valid area" means: every pixel at a Euclidean distance <= padding from a lesion pixel is valid,
and what lies outside the image is not. That is a second erosion, by a disc of that radius, and erosions compose.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Runs = tuple[tuple[int, int, int], ...]
"""Horizontal runs of a shape: (row, first column, length), relative to the shape's bounding box."""


def runs_of(shape: np.ndarray) -> Runs:
    """Runs of a boolean (h, w) shape, relative to its bounding box, longest first (so that an empty result shows early).

    Raises:
        ValueError: the shape is empty.
    """
    rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
    if not len(rows):
        raise ValueError("an empty shape has no position")
    box = shape[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    edges = np.diff(np.pad(box.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    starts, ends = np.argwhere(edges == 1), np.argwhere(edges == -1)
    found = [(int(row), int(first), int(end - first)) for (row, first), (_, end) in zip(starts, ends, strict=True)]
    return tuple(sorted(found, key=lambda run: -run[2]))


@lru_cache(maxsize=64)
def disc_runs(radius: int) -> Runs:
    """Runs of the disc of all offsets (dy, dx) with dy^2 + dx^2 <= radius^2."""
    axis = np.arange(-radius, radius + 1)
    return runs_of(axis[:, None] ** 2 + axis**2 <= radius**2)


def pack(mask: np.ndarray) -> int:
    """A boolean (H, W) mask as one integer with rows of W + 1 bits."""
    padded = np.zeros((mask.shape[0], mask.shape[1] + 1), bool)
    padded[:, :-1] = mask
    return int.from_bytes(np.packbits(padded.reshape(-1), bitorder="little").tobytes(), "little")


def unpack(bits: int, height: int, width: int) -> np.ndarray:
    """The boolean (H, W) mask of an integer made by `pack`."""
    size = height * (width + 1)
    data = np.frombuffer(bits.to_bytes((size + 7) // 8, "little"), np.uint8)
    return np.unpackbits(data, count=size, bitorder="little").astype(bool).reshape(height, width + 1)[:, :-1]


@lru_cache(maxsize=1024)
def _first_columns(height: int, width: int, count: int) -> int:
    """The first `count` columns of every row, as packed bits."""
    mask = np.zeros((height, width), bool)
    mask[:, :count] = True
    return pack(mask)


def erode(bits: int, height: int, width: int, shape: Runs) -> int:
    """Positions of the shape's bounding box (its top left pixel) at which the whole shape lies in the region.

    Args:
        height, width: of the region, in px.
        shape: the shape's runs.
    """
    extent = max(first + length for _, first, length in shape)
    if extent > width:
        return 0
    result = _first_columns(height, width, width - extent + 1)  # keeps positions from reaching into the next row
    doubled = [bits]
    by_length: dict[int, int] = {}
    for row, first, length in shape:
        run = by_length.get(length)
        if run is None:
            power = length.bit_length() - 1
            while len(doubled) <= power:
                doubled.append(doubled[-1] & (doubled[-1] >> (1 << (len(doubled) - 1))))
            run = doubled[power]
            if length > 1 << power:
                run &= run >> (length - (1 << power))
            by_length[length] = run
        result &= run >> (row * (width + 1) + first)
        if not result:
            return 0
    return result


@dataclass(frozen=True)
class Positions:
    """All allowed positions of a lesion on a canvas.

    Args:
        bits: packed positions; bit of row y and column x stands for the top left corner (y + offset, x + offset).
        height, width: of the canvas in px.
        offset: shift of the positions, equal to the padding.
    """

    bits: int
    height: int
    width: int
    offset: int

    def __len__(self) -> int:
        return self.bits.bit_count()

    def all(self) -> np.ndarray:
        """Every allowed (y, x) of the bounding box's top left pixel, as an (n, 2) array in reading order."""
        return np.argwhere(unpack(self.bits, self.height, self.width)) + self.offset

    def draw(self, rng: np.random.Generator) -> tuple[int, int]:
        """One position, each with the same probability.

        Raises:
            ValueError: there is none.
        """
        count = len(self)
        if not count:
            raise ValueError("no allowed position")
        words = -(-self.bits.bit_length() // 64)
        data = np.frombuffer(self.bits.to_bytes(words * 8, "little"), "<u8")
        before = np.cumsum(np.bitwise_count(data), dtype=np.int64)
        rank = int(rng.integers(count))
        word = int(np.searchsorted(before, rank, side="right"))
        value = int(data[word])
        for _ in range(rank - (int(before[word - 1]) if word else 0)):
            value &= value - 1  # clears the lowest set bit
        index = word * 64 + (value & -value).bit_length() - 1
        return index // (self.width + 1) + self.offset, index % (self.width + 1) + self.offset


def allowed_positions(valid: np.ndarray, lesion: Runs, padding: int) -> Positions:
    """All positions at which every lesion pixel lies at least `padding` px inside the valid area.

    Args:
        valid: boolean (H, W); where a lesion may lie (skin, lesion and marker of the canvas).
        lesion: runs of the lesion.
        padding: px; a pixel counts as inside when all pixels within this Euclidean distance of it are valid.
    """
    height, width = valid.shape
    bits = pack(valid)
    if padding:
        bits = erode(bits, height, width, disc_runs(padding))
    return Positions(erode(bits, height, width, lesion) if bits else 0, height, width, padding)
