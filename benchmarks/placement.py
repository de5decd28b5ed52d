"""Placement of a lesion on a canvas at 256 px: all allowed positions and one draw, against erosion by rectangles."""

from __future__ import annotations

import time
import warnings

import numpy as np

SIZE, PAIRS, PADDING, REPEATS = 256, 31, 10, 20


def lesion_shares(count: int) -> np.ndarray:
    """Shares of the image as real lesions have them: log-normal about a median of 0.6%, up to 30%."""
    from scipy.stats import norm

    quantiles = (np.arange(count) + 0.5) / count
    return np.minimum(0.3, 0.006 * np.exp(1.7 * norm.ppf(quantiles)))


def reference(valid: np.ndarray, lesion: np.ndarray, rng: np.random.Generator) -> tuple[int, int] | None:
    """Erode by the lesion's bounding box, erode again for the padding, filter, choose; with paddings 10, 5 and 0."""
    from skimage.morphology import binary_erosion

    rows, columns = np.flatnonzero(lesion.any(1)), np.flatnonzero(lesion.any(0))
    height, width = rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1
    for padding in (PADDING, PADDING // 2, 0):
        eroded = binary_erosion(valid, np.ones((height, width), bool))
        if padding:
            eroded = binary_erosion(eroded, np.ones((2 * padding + 1, 2 * padding + 1), bool))
        ys, xs = np.nonzero(eroded)
        fits = (ys + height <= valid.shape[0]) & (xs + width <= valid.shape[1])
        if fits.any():
            chosen = rng.choice(np.flatnonzero(fits))
            return int(ys[chosen]), int(xs[chosen])
    return None


def run() -> dict:
    """Milliseconds per pair, median over lesions of real proportions; `ratio` compares the medians, the stricter reading."""
    from cgddi.core.images import LESION, MARKER, SKIN
    from cgddi.core.placement import allowed_positions, runs_of

    from tests.stages.lesion_mapped.world import photo

    rng = np.random.default_rng(0)
    ours, theirs, shares = [], [], lesion_shares(PAIRS)
    for number, share in enumerate(shares):
        lesion = photo(number, SIZE, lesion=float(share))[1] == LESION
        valid = np.isin(photo(1000 + number, SIZE, lesion=0.006)[1], (SKIN, LESION, MARKER))
        runs = runs_of(lesion)  # once per donor, as the stage does
        began = time.perf_counter()
        for _ in range(REPEATS):
            positions = allowed_positions(valid, runs, PADDING)
            if positions.bits:
                positions.draw(rng)
        ours.append((time.perf_counter() - began) / REPEATS * 1e3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            began = time.perf_counter()
            reference(valid, lesion, rng)
            theirs.append((time.perf_counter() - began) * 1e3)
    ratios = np.array(theirs) / np.array(ours)
    return {
        "name": "placement",
        "unit": "ms per pair (median)",
        "ours": round(float(np.median(ours)), 3),
        "reference": round(float(np.median(theirs)), 1),
        "ratio": round(float(np.median(theirs) / np.median(ours)), 1),
        "ratio_of_totals": round(sum(theirs) / sum(ours), 1),
        "smallest_pair_ratio": round(float(ratios.min()), 1),
        "pairs": PAIRS,
        "lesion_share_median": round(float(np.median(shares)), 4),
        "lesion_share_max": round(float(shares.max()), 3),
    }
