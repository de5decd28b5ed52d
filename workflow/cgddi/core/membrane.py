"""The smoothest surface over a region that meets given values at its edge: Laplace's equation on the pixel grid."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))
SMOOTH = 2.0
"""Gaussian sigma in px of the differences that `match_border` spreads."""


class Membrane:
    """Laplace's equation over one region, factorised once and solved for any edge values.

    Gradient-domain blending in its membrane form (Perez et al. 2003, section 2; Farbman et al. 2009): the pasted picture plus
    the membrane of the differences at its edge has the paste's gradients and the target's edge.

    Args:
        region: (h, w) bool. Pixels of the region at the array's own edge have no neighbour there (natural condition).

    Raises:
        ValueError: the region is empty or fills the array, so that it has no edge.
    """

    def __init__(self, region: np.ndarray):
        from scipy.sparse import coo_matrix
        from scipy.sparse.linalg import splu

        if not region.any() or region.all():
            raise ValueError("a membrane needs a region with an edge")
        self.region = region
        number = np.full(region.shape, -1)
        ys, xs = np.nonzero(region)
        number[ys, xs] = np.arange(len(ys))
        self._edges = []  # (unknown, row, column) of every known neighbour
        entries = []
        degree = np.zeros(len(ys))
        for dy, dx in NEIGHBOURS:
            ny, nx = ys + dy, xs + dx
            inside = (ny >= 0) & (ny < region.shape[0]) & (nx >= 0) & (nx < region.shape[1])
            here = np.flatnonzero(inside)
            there = number[ny[here], nx[here]]
            degree[here] += 1
            linked = there >= 0
            entries.append((here[linked], there[linked]))
            self._edges.append((here[~linked], ny[here][~linked], nx[here][~linked]))
        rows = np.concatenate([np.arange(len(ys)), *(one for one, _ in entries)])
        columns = np.concatenate([np.arange(len(ys)), *(two for _, two in entries)])
        values = np.concatenate([degree, *(-np.ones(len(one)) for one, _ in entries)])
        self._solver = splu(coo_matrix((values, (rows, columns)), shape=(len(ys), len(ys))).tocsc())

    def __call__(self, values: np.ndarray, steps: np.ndarray | float = 0.0) -> np.ndarray:
        """The surface (n, c) over the region's pixels, in reading order.

        Args:
            values: (h, w, c) float; only values next to the region are used.
            steps: (h, w, c), how much higher than its neighbours a pixel of the region is to be, summed over them: the right side
                of Poisson's equation. 0: Laplace's.
        """
        right = np.zeros((int(self.region.sum()), values.shape[-1])) + (steps[self.region] if np.ndim(steps) else steps)
        for here, rows, columns in self._edges:
            np.add.at(right, here, values[rows, columns])
        return self._solver.solve(right)


def blend(photo: np.ndarray, painted: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The painted picture where the weight says so; every pixel of weight 0 is the photo's, bit for bit.

    Args:
        photo, painted: (H, W, 3) uint8.
        region: (H, W) uint8 weight.
    """
    weight = region[..., None].astype(np.uint32)
    return ((photo * (255 - weight) + painted * weight + 127) // 255).astype(np.uint8)


def match_border(photo: np.ndarray, painted: np.ndarray, region: np.ndarray) -> np.ndarray:
    """The painted picture (H, W, 3) uint8, shifted inside the region so that it meets the photo at the region's edge.

    The shift is the membrane of the (smoothed) differences just outside; an autoencoder's colour cast vanishes with it.
    """
    inside = region > 0
    if not inside.any() or inside.all():
        return painted
    outside = (~inside).astype(np.float64)
    difference = (photo.astype(np.float64) - painted) * outside[..., None]
    share = ndimage.gaussian_filter(outside, SMOOTH)
    smooth = ndimage.gaussian_filter(difference, (SMOOTH, SMOOTH, 0)) / np.maximum(share, 1e-6)[..., None]
    result = painted.astype(np.float64)
    result[inside] += Membrane(inside)(smooth)
    return np.rint(result).clip(0, 255).astype(np.uint8)
