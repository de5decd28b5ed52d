"""Photos that show the same picture mirrored, turned or cropped: found by thumbnails of many parts, told apart by aligning them.

Every part of a photo that a crop of up to a fifth of its width or height can leave (49 windows) is compared, as 63 whitened cosines
of an 8 x 8 thumbnail, with every other photo in its 8 mirrored and turned views: one matrix product. Pairs alike there are aligned
(place and size of the window, by steps) and must then agree in their details, which smooth skin does not by chance. On one core
that takes some 10 s for 656 photos and half an hour for 16,577.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image
from scipy import fft, ndimage
from tqdm import tqdm

SIDE = 96
"""Side in px of the grey picture that a photo is compared by."""
COARSE, MIDDLE, FINE = 8, 20, 40
"""Sides in px of the thumbnails that candidates are found by, sifted by, and aligned by."""
SPANS = [(0.0, 1.0)] + [(start * (1 - size), size) for size in (0.92, 0.83) for start in (0.0, 0.5, 1.0)]
"""Start and length of the parts of a side, as shares of it."""
ALIKE, SAME = 0.72, 0.82
"""Correlations from which on a pair is looked at, and is one picture. Over 26 smartphone photos and their copies (mirrored, turned,
cropped by 10 to 20 %, darker, JPEG quality 30) copies reach 0.92 at least, other photos 0.54 at most; a procedural world 0.71."""
HINT, HOPELESS = 0.36, 0.45
"""Correlations of details below which a pair is not aligned, and is given up after the first steps."""
NEAREST = 3
"""Views of other photos, at most, that one is aligned with: bare skin has many that look alike, and a copy is among the first."""
PRIOR, SHRINK = 10, 0.1
"""Pictures that the usual spectrum counts as, and the share of the mean variance added to each (see `whitening`)."""
NOISE = 1.0
"""Grey values by which details differ for no reason: rounding, JPEG."""
BLOCK = 256
"""Photos compared at once."""


def small_grey(photo: Image.Image) -> np.ndarray:
    """A photo as it is compared: (SIDE, SIDE) uint8, grey, squeezed to a square."""
    size = (SIDE, SIDE)
    return np.asarray(photo.convert("L").resize(size, Image.Resampling.BILINEAR, reducing_gap=3.0))


def turned(picture: np.ndarray) -> list[np.ndarray]:
    """The 8 views of a square picture (..., S, S): four quarter turns, each also mirrored."""
    mirrored = picture[..., ::-1]
    return [np.rot90(view, k, (-2, -1)) for view in (picture, mirrored) for k in range(4)]


def _cosines(thumbnails: np.ndarray) -> np.ndarray:
    """Cosines (..., 63) but the mean of thumbnails (..., COARSE, COARSE), of norm 1; of a plain picture all 0."""
    found = fft.dctn(thumbnails, axes=(-2, -1), norm="ortho").reshape(*thumbnails.shape[:-2], -1)[..., 1:]
    return _unit(found.astype(np.float32))


def _unit(vectors: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(norm > 1e-3, norm, np.inf)


def whitening(views: np.ndarray) -> np.ndarray:
    """(63, 63) that makes cosines of these pictures (N, 8, 63) as likely as each other: what many of them share, a dark spot in the
    middle or a lighter side, says nothing of two of them. Of few pictures, what photographs share by frequency counts too."""
    every = views.reshape(-1, views.shape[-1]).astype(np.float64)
    frequency = np.hypot(*np.mgrid[:COARSE, :COARSE]).ravel()[1:]
    usual = frequency**-2.0  # power of photographs: 1/f^2
    usual *= 1 / usual.sum()
    share = (every.T @ every + 8 * PRIOR * np.diag(usual)) / (len(every) + 8 * PRIOR)
    values, axes = np.linalg.eigh(share)
    return (axes / np.sqrt(values.clip(0) + SHRINK * values.mean())).astype(np.float32)


def _averages(side: int, spans: Sequence[tuple[float, float]], bins: int) -> np.ndarray:
    """(spans, bins, side): means over equal parts of each span of a side, with fractions of pixels."""
    edges = np.array([[(start + length * k / bins) * side for k in range(bins + 1)] for start, length in spans])
    places = np.arange(side)
    upto = np.clip(edges[..., None] - places, 0, 1)
    return ((upto[:, 1:] - upto[:, :-1]) / (edges[:, 1:] - edges[:, :-1])[..., None]).astype(np.float32)


def windows(greys: np.ndarray) -> np.ndarray:
    """Cosines (N, 49, 63) of the parts of pictures (N, SIDE, SIDE); the first is the whole."""
    parts = _averages(greys.shape[-1], SPANS, COARSE)
    thumbnails = np.einsum("aus,nst,bvt->nabuv", parts, greys.astype(np.float32), parts, optimize=True)
    return _cosines(thumbnails.reshape(len(greys), -1, COARSE, COARSE))


def wholes(greys: np.ndarray) -> np.ndarray:
    """Cosines (N, 8, 63) of whole pictures in their 8 views."""
    parts = _averages(greys.shape[-1], SPANS[:1], COARSE)[0]
    thumbnails = np.einsum("us,nst,vt->nuv", parts, greys.astype(np.float32), parts, optimize=True)
    return _cosines(np.stack(turned(thumbnails), 1))


def candidates(greys: np.ndarray) -> Iterator[tuple[int, int, int, tuple[int, int]]]:
    """What may show the same picture: photo, other photo, the view in which that one may be a part of the first, and which part.

    Args:
        greys: (N, SIDE, SIDE) uint8 (see `small_grey`).
    """
    if len(greys) < 2:
        return
    views = np.concatenate([wholes(greys[start : start + BLOCK]) for start in range(0, len(greys), BLOCK)])
    white = whitening(views)
    flat = _unit(views @ white).reshape(-1, views.shape[-1]).T.copy()
    evenly = _averages(SIDE, SPANS[:1], MIDDLE)[0]
    small = np.stack([evenly @ grey.astype(np.float32) @ evenly.T for grey in greys])
    sharp = np.stack(turned(_details(small)), 1).reshape(-1, MIDDLE**2)
    blocks = range(0, len(greys), BLOCK)
    for start in tqdm(blocks, desc="compare mirrored, turned and cropped", unit="block", disable=len(blocks) < 5):
        parts = _unit(windows(greys[start : start + BLOCK]) @ white)
        best = np.full((len(parts), len(greys) * 8), -1, np.float32)
        which = np.zeros(best.shape, np.uint8)
        for number in range(parts.shape[1]):
            alike = parts[:, number] @ flat
            which[alike > best] = number
            np.maximum(best, alike, out=best)
        for i, row in enumerate(best):
            columns = np.flatnonzero(row >= ALIKE)
            columns = columns[columns // 8 != i + start]
            parts_of = which[i, columns]
            own = _window_details(greys[i + start])
            hints = np.einsum("kd,kd->k", own[parts_of], sharp[columns])
            nearest = [k for k in np.argsort(-hints, kind="stable")[:NEAREST].tolist() if hints[k] >= HINT]
            for column in columns[nearest].tolist():
                yield i + start, column // 8, column % 8, divmod(int(which[i, column]), len(SPANS))


def _window_details(grey: np.ndarray) -> np.ndarray:
    """Details (49, MIDDLE^2) of the parts of one picture, as `_details` gives them."""
    parts = _averages(SIDE, SPANS, MIDDLE)
    thumbnails = np.einsum("aus,st,bvt->abuv", parts, grey.astype(np.float32), parts, optimize=True)
    return _details(thumbnails.reshape(-1, MIDDLE, MIDDLE)).reshape(-1, MIDDLE**2)


def pairs(greys: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of positions (the smaller first) that show the same picture, or a part of it, in some view."""
    found: set[tuple[int, int]] = set()
    for i, j, view, window in candidates(greys):
        pair = (min(i, j), max(i, j))
        if pair not in found and agreement(greys[i], turned(greys[j])[view], window) >= SAME:
            found.add(pair)
    return sorted(found)


def agreement(whole: np.ndarray, part: np.ndarray, window: tuple[int, int]) -> float:
    """Correlation of details of two pictures, one taken as a part of the other, once place and size of that part are found.

    The four edges of the part are moved in turn, by smaller and smaller steps.

    Args:
        whole, part: (SIDE, SIDE) uint8.
        window: numbers in `SPANS` of the part's height and width, where the search begins.
    """
    whole, evenly = whole.astype(np.float32), _averages(SIDE, SPANS[:1], FINE)[0]
    wanted = _details(evenly @ part.astype(np.float32) @ evenly.T)
    edges = [edge for number in window for edge in (SPANS[number][0], sum(SPANS[number]))]

    def fit(edges: Sequence[float]) -> float:
        spans = [(edges[0], edges[1] - edges[0]), (edges[2], edges[3] - edges[2])]
        rows, columns = _averages(SIDE, spans, FINE)
        return float((_details(rows @ whole @ columns.T) * wanted).sum())

    best, step = fit(edges), 0.04
    while step > 0.004 and (step == 0.04 or best > HOPELESS):
        moved = False
        for number in range(4):
            for by in (step, -step):
                trial = list(edges)
                trial[number] += by
                long = trial[number | 1] - trial[number & ~1] >= 0.7
                if long and -0.02 <= trial[number] <= 1.02 and (value := fit(trial)) > best:
                    best, edges, moved = value, trial, True
        step = step if moved and step < 0.04 else step / 2
    return best


def _details(pictures: np.ndarray) -> np.ndarray:
    """Pictures (..., S, S) less their own blur, as strong in all places, of norm 1: neither smooth shading nor one dark spot in the
    middle nor a ruler decides alone."""
    side = pictures.shape[-1]

    def blurred(values: np.ndarray, share: float) -> np.ndarray:
        return ndimage.gaussian_filter(values, side * share, mode="nearest", axes=(-2, -1))

    fine = pictures - blurred(pictures, 1 / 12)
    fine /= np.sqrt(blurred(fine**2, 1 / 10)) + NOISE
    norm = np.linalg.norm(fine, axis=(-2, -1), keepdims=True)
    return fine / np.where(norm > 1e-3, norm, np.inf)
