"""Photos that show the same picture: exact copies, and copies that were resized, recompressed, retouched a little, mirrored, turned
or cropped (`views`)."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import imagehash
import numpy as np
from PIL import Image
from scipy import sparse
from scipy.sparse import csgraph
from tqdm import tqdm

from cgddi.core.archive import file_sha256
from cgddi.core.errors import UserError
from cgddi.core.images import read_photo
from cgddi.ingest import views

NEAR = 4
"""Bits of 64 that the perceptual hashes of near-duplicates may differ in."""

ALIKE = 0.97
"""Correlation of 16 x 16 grey thumbnails that near-duplicates reach; smooth skin may agree in its hash by chance."""


@dataclass(frozen=True)
class Fingerprint:
    """What tells one picture from another.

    Args:
        phash: 64-bit perceptual hash (DCT signs of the upright grey picture).
        thumbnail: (256,) grey values of mean 0 and norm 1; all 0 for a plain picture.
        view: the picture as `views` compares it; None: it is not compared so.
    """

    sha256: str
    phash: int
    thumbnail: np.ndarray
    view: np.ndarray | None = None


def fingerprint(path: str, photo: Image.Image | None = None) -> Fingerprint:
    """Fingerprint of one photo.

    Raises:
        UserError: the photo cannot be read.
    """
    grey = (photo or read_photo(path)[0]).convert("L")
    view = views.small_grey(grey)
    grey.thumbnail((256, 256), reducing_gap=2.0)
    values = np.asarray(grey.resize((16, 16), Image.Resampling.BOX), dtype=np.float64).ravel()
    values -= values.mean()
    norm = np.linalg.norm(values)
    thumbnail = values / norm if norm > 16 else np.zeros_like(values)
    return Fingerprint(file_sha256(path), int(str(imagehash.phash(grey)), 16), thumbnail, view)


def fingerprints(paths: Sequence[str], threads: int = 1) -> list[Fingerprint | UserError]:
    """Fingerprints of all photos, in order; for a photo that cannot be read, the error."""

    def one(path: str) -> Fingerprint | UserError:
        try:
            return fingerprint(path)
        except UserError as error:
            return error

    with ThreadPoolExecutor(max(1, threads)) as pool:
        return list(tqdm(pool.map(one, paths), total=len(paths), desc="looking for duplicates", unit="photo"))


def duplicate_sets(
    prints: Sequence[Fingerprint], near: int = NEAR, known: Iterable[Sequence[int]] = ()
) -> list[list[int]]:
    """Sets of photos that show the same picture.

    Args:
        near: bits the perceptual hashes may differ in; negative: exact copies only. Of photos that are one by that, the first is
            compared with others' views.
        known: sets of positions that are one picture whatever their fingerprints.

    Returns:
        Positions, each set sorted and of two or more, the sets in order of their first photo. Sameness is carried on:
        when a is like b and b like c, all three are one set.
    """
    joined = [(members[0], number) for members in known for number in members[1:]]
    first: dict[str, int] = {}
    joined += [(first.setdefault(one.sha256, i), i) for i, one in enumerate(prints)]
    if near >= 0 and prints:
        hashes = np.array([one.phash for one in prints], dtype=np.uint64)
        thumbnails = np.stack([one.thumbnail for one in prints])
        for start in range(0, len(prints), 512):
            differing = np.bitwise_count(hashes[start : start + 512, None] ^ hashes[None, start:])
            rows, columns = np.nonzero(differing <= near)
            for i, j in zip((rows + start).tolist(), (columns + start).tolist(), strict=True):
                if i < j and thumbnails[i] @ thumbnails[j] >= ALIKE:
                    joined.append((i, j))
        heads = [i for i, *_ in _sets(joined, len(prints)) if prints[i].view is not None]
        if heads:
            pairs = views.pairs(np.stack([prints[i].view for i in heads]))
            joined += [(heads[i], heads[j]) for i, j in pairs]
    return [members for members in _sets(joined, len(prints)) if len(members) > 1]


def _sets(joined: Sequence[tuple[int, int]], count: int) -> list[list[int]]:
    """Positions below `count` that pairs join, each set sorted, the sets in order of their first."""
    rows, columns = np.array(joined, int).reshape(-1, 2).T
    graph = sparse.coo_array((np.ones(len(rows)), (rows, columns)), (count, count))
    sets: dict[int, list[int]] = {}
    for i, label in enumerate(csgraph.connected_components(graph, directed=False)[1] if count else ()):
        sets.setdefault(label, []).append(i)
    return list(sets.values())
