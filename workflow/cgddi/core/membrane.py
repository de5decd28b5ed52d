"""The smoothest surface over a region that meets given values at its edge: Laplace's equation on the pixel grid."""

import numpy as np
from scipy import ndimage

NEIGHBOURS = ((-1, 0), (1, 0), (0, -1), (0, 1))
CELL = 4
"""Side in px of the squares over which a surface is bilinear away from its edge."""
SMOOTH = 2.0
"""Gaussian sigma in px of the differences that `match_border` spreads."""


class Membrane:
    """Laplace's equation over one region, factorised once and solved for any edge values.

    Gradient-domain blending in its membrane form (Perez et al. 2003, section 2; Farbman et al. 2009): the pasted picture plus
    the membrane of the differences at its edge has the paste's gradients and the target's edge.

    Far from the edge the surface bends little: there it is sought among those that are bilinear over squares of `CELL` px, as
    Galerkin's method does, which leaves a fraction of the unknowns (Agarwala 2007 does it with quadtrees).

    Args:
        region: (h, w) bool. Pixels of the region at the array's own edge have no neighbour there (natural condition).
        steps: (h, w) bool, pixels near which the surface has steps, besides the edge.
        fading: length in px over which the surface falls to 0 away from its edge (screened Poisson equation); inf: it does not.

    Raises:
        ValueError: the region is empty or fills the array, so that it has no edge.
    """

    def __init__(self, region: np.ndarray, steps: np.ndarray | None = None, fading: float = np.inf):
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
        degree += fading**-2
        rows = np.concatenate([np.arange(len(ys)), *(one for one, _ in entries)])
        columns = np.concatenate([np.arange(len(ys)), *(two for _, two in entries)])
        values = np.concatenate([degree, *(-np.ones(len(one)) for one, _ in entries)])
        matrix = coo_matrix((values, (rows, columns)), shape=(len(ys), len(ys))).tocsc()
        self._spread = self._bilinear(number, ys, xs, ~region if steps is None else ~region | steps)
        # for a symmetric matrix this order of elimination leaves a third of the factors' entries
        ways = {"permc_spec": "MMD_AT_PLUS_A", "diag_pivot_thresh": 0, "options": {"SymmetricMode": True}}
        self._solver = splu((self._spread.T @ matrix @ self._spread).tocsc(), **ways)

    @staticmethod
    def _bilinear(number: np.ndarray, ys: np.ndarray, xs: np.ndarray, fine: np.ndarray):
        """(pixels, unknowns) sparse: each pixel near what is fine is one, any other the mean of its square's corners."""
        from scipy.sparse import coo_matrix

        near = ndimage.binary_dilation(fine, np.ones((3, 3), bool), iterations=2 * CELL, border_value=1)[ys, xs]
        pixels, (y, x) = np.arange(len(ys)), np.divmod(np.stack([ys, xs]), CELL)[0] * CELL
        dy, dx = (ys - y) / CELL, (xs - x) / CELL
        entries = [(pixels[near], pixels[near], np.ones(near.sum()))]
        for down, weight_y in ((0, 1 - dy), (CELL, dy)):
            for right, weight_x in ((0, 1 - dx), (CELL, dx)):
                there = ~near & (weight_y * weight_x > 0)
                corner = number[y[there] + down, x[there] + right]
                entries.append((pixels[there], corner, (weight_y * weight_x)[there]))
        rows, columns, weights = (np.concatenate(part) for part in zip(*entries, strict=True))
        unknowns, columns = np.unique(columns, return_inverse=True)
        return coo_matrix((weights, (rows, columns)), shape=(len(ys), len(unknowns))).tocsc()

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
        return self._spread @ self._solver.solve(self._spread.T @ right)


def raised(pixels: np.ndarray, surface: np.ndarray) -> np.ndarray:
    """A smooth surface (n, 3), in levels, added to pixels (n, 3) uint8 by whole levels.

    Rounding each sum anew would be noise of its own: a tenth of the finest chroma of a photo. Green and the other channels'
    differences to it are rounded, since light changes these little: hue has fewer steps than red, green and blue have together.
    """
    green = surface[:, 1:2]
    return (pixels + np.rint(green) + np.rint(surface - green)).clip(0, 255).astype(np.uint8)


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
    result = painted.copy()
    result[inside] = raised(painted[inside], Membrane(inside)(smooth))
    return result
