"""Healing: a region is covered with skin copied from elsewhere in the same photo, so that pores, creases and hair stay real.

The whole region is copied from the one place whose surroundings look most like its own (found by FFT). Where no place has room for
all of it, several pieces are laid one after the other, joined along a minimal cut through their overlap (Kwatra et al. 2003). Only
texture is copied: colour and lighting are those of the plain skin around, and at the region's edge the edge's own (the membrane of
the differences there, Perez et al. 2003, which fades inwards, so that a flush at the edge does not tint the whole).
"""

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from cgddi.core.colour import lab_to_rgb, rgb_to_lab
from cgddi.core.membrane import Membrane, raised
from cgddi.core.skin import grown, lighting, local_mean, plain_skin, scale_of

RING = 10
"""Width in px of the surroundings that are compared; lengths are for a photo of 512 px and grow and shrink with it."""
OVERLAP = 12
"""Width in which a further piece may overlap those before it."""
MATCHING_SIDE = 256
"""Longer side at which places are compared; the best ones are then compared at full size."""
CANDIDATES = 6
SAMPLE = 3000
"""Most pixels of a region or its surroundings by which places are compared at full size."""
ROUGH, ROUGH_SIGMA, ROUGH_WEIGHT = (1.0, 3.0), 8.0, 14.0
"""Octaves (Gaussian sigma) whose spread is compared, sigma of its average, and CIELAB units that a factor of e counts."""
MOST_PIECES = 12
SHADING = 24.0
"""Gaussian sigma of what counts as the copies' own shading and flush, and is not copied with their texture."""
AROUND = 60.0
"""How far the skin around reaches whose colour the middle of the region takes."""
FADING = 40.0
"""Length in px over which the colours of the region's edge give way to those of the skin around."""


@dataclass(frozen=True)
class Healed:
    """A healed photo: (H, W, 3) uint8, from how many places skin was copied, and the share of the region no skin was found for."""

    picture: np.ndarray
    pieces: int
    smooth: float


def heal(photo: np.ndarray, region: np.ndarray, skin: np.ndarray) -> Healed:
    """Cover a region with skin of the same photo.

    Args:
        photo: (H, W, 3) uint8.
        region: (H, W) uint8 weight. From one half on the photo is covered; below, it may stay where that hides the join.
        skin: (H, W) bool, where there is skin. Of it, nothing is copied that lies within the region or near it, or whose colour
            is unlike the rest of the skin: other lesions, ink and cloth that a mask of one class does not know.
    """
    scale = scale_of(region.shape)
    lab = rgb_to_lab(photo)
    hole = region > 0
    places = Places(lab, plain_skin(lab, skin & ~hole), skin & ~hole, scale)
    picture, pieces, smooth = photo.copy(), 0, 0
    for part in parts(hole, scale):
        patch = Patchwork(places, part, part & (region >= 128))
        patch.lay()
        picture[part] = patch.healed(photo)
        pieces += patch.pieces
        smooth += int(patch.left.sum())
    return Healed(picture, pieces, smooth / max(1, int(hole.sum())))


def parts(hole: np.ndarray, scale: float) -> list[np.ndarray]:
    """The hole in parts that are copied as a whole each: what lies within a ring's width belongs together."""
    labels, count = ndimage.label(grown(hole, max(1, RING * scale / 2)))
    return sorted((hole & (labels == n) for n in range(1, count + 1)), key=lambda part: -int(part.sum()))


class Places:
    """Finds the places of a photo that look like the surroundings of a region.

    Args:
        lab: (H, W, 3) CIELAB.
        usable: (H, W) bool, where skin may be copied from.
        known: (H, W) bool, skin that surroundings may be compared by.
        scale: the photo's longer side over 512.
    """

    def __init__(self, lab: np.ndarray, usable: np.ndarray, known: np.ndarray, scale: float):
        self.lab, self.usable, self.known, self.scale = lab, usable, known, scale
        self.looks = np.concatenate([lab - shading(lab, usable, scale), roughness(lab[..., 0], known, scale)], -1)
        self.factor = max(1, round(max(usable.shape) / MATCHING_SIDE))
        small = self._small(self.looks)
        self.open = shrunk(usable * 1.0, self.factor) > 1 - 1e-6
        self.shape = tuple(fft.next_fast_len(2 * side, real=True) for side in self.open.shape)
        weight = self.open.astype(np.float32)
        self._weight = self._spectrum(weight)
        self._colours = [self._spectrum(weight * plane) for plane in small]
        self._squares = self._spectrum(weight * sum(plane**2 for plane in small))

    def _small(self, looks: np.ndarray) -> list[np.ndarray]:
        return [shrunk(looks[..., c], self.factor) for c in range(looks.shape[-1])]

    def _spectrum(self, plane: np.ndarray) -> np.ndarray:
        return fft.rfft2(plane.astype(np.float32), self.shape)

    def _sums(self, spectrum: np.ndarray) -> np.ndarray:
        return fft.irfft2(spectrum, self.shape)

    def best(self, looks: np.ndarray, wanted: np.ndarray, known: np.ndarray) -> tuple[int, int] | None:
        """The shift (dy, dx) from the region to the place that fits best, or None when no place has skin for any of it.

        Args:
            looks: (H, W, 5), colour and roughness of the photo with the pieces laid so far.
            wanted: (H, W) bool, the region to cover.
            known: (H, W) bool, pixels whose looks surroundings may be compared by.
        """
        near = grown(wanted, max(2, RING * self.scale))
        ring = near & known & ~wanted
        small_wanted = shrunk(wanted * 1.0, self.factor) > 0
        weight = (shrunk(ring * 1.0, self.factor) * ~small_wanted).astype(np.float32)
        cover = self._sums(np.conj(self._spectrum(small_wanted)) * self._weight)
        full = float(small_wanted.sum())
        if cover.max() < 0.5:
            return None
        enough = cover >= (full - 0.5 if cover.max() >= full - 0.5 else 0.6 * cover.max())
        cost = self._cost(looks, weight) if weight.any() else np.ones_like(cover)
        cost = np.where(enough, cost * (full / np.maximum(cover, 1)) ** 2, np.inf)
        wanted_at, ring_at = sampled(wanted), sampled(ring)
        mine = looks[tuple(ring_at)]
        costs = {shift: self._exact(mine, wanted_at, ring_at, shift) for shift in self._lowest(cost)}
        return min(costs, key=costs.__getitem__, default=None)

    def _cost(self, looks: np.ndarray, weight: np.ndarray) -> np.ndarray:
        """Mean squared difference of the surroundings' looks for every shift."""
        planes = self._small(looks)
        spectrum = np.conj(self._spectrum(weight))
        count = self._sums(spectrum * self._weight)
        safe = np.maximum(count, 1e-3 * weight.sum())
        total = spectrum * self._squares
        total += np.conj(self._spectrum(weight * sum(plane**2 for plane in planes))) * self._weight
        for plane, spectra in zip(planes, self._colours, strict=True):
            total -= 2 * np.conj(self._spectrum(weight * plane)) * spectra
        cost = np.maximum(self._sums(total) / safe, 0) + 1
        return np.where(count >= 0.5 * weight.sum(), cost, 4 * cost)

    def _lowest(self, cost: np.ndarray) -> list[tuple[int, int]]:
        """The best shifts in px of the photo, a few px apart from each other at least."""
        found, cost, reach = [], cost.copy(), 3
        for _ in range(CANDIDATES):
            at = np.unravel_index(int(np.argmin(cost)), cost.shape)
            if not np.isfinite(cost[at]):
                break
            found.append(at)
            rows, columns = (np.arange(i - reach, i + reach + 1) % n for i, n in zip(at, cost.shape, strict=True))
            cost[np.ix_(rows, columns)] = np.inf
        signed = [[i - n if i > n // 2 else i for i, n in zip(at, cost.shape, strict=True)] for at in found]
        span = range(-self.factor + 1, self.factor)
        return [(y * self.factor + dy, x * self.factor + dx) for y, x in signed for dy in span for dx in span]

    def _exact(self, looks: np.ndarray, wanted: np.ndarray, ring: np.ndarray, shift: tuple[int, int]) -> float:
        """The cost of one shift at full size: of the surroundings' looks (n, 5) at pixels (2, n) `ring`."""
        covered = self._usable(wanted, shift)[0].mean()
        if not covered:
            return np.inf
        usable, there = self._usable(ring, shift)
        if not usable.any():
            return 1e6 / covered**2
        difference = self.looks[tuple(there[:, usable])] - looks[usable]
        cost = (difference**2).sum(-1).mean() + 1
        return float(cost) / covered**2 * (1 if usable.mean() >= 0.5 else 4)

    def _usable(self, pixels: np.ndarray, shift: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """(whether the pixel `shift` away may be copied, where it is) for pixels (2, n)."""
        there = pixels + np.array(shift)[:, None]
        size = np.array(self.usable.shape)[:, None]
        inside = ((there >= 0) & (there < size)).all(0)
        return inside & self.usable[tuple(there.clip(0, size - 1))], there


def shading(lab: np.ndarray, skin: np.ndarray, scale: float) -> np.ndarray:
    """The colours (H, W, 3) of skin averaged over a Gaussian of sigma `SHADING`, computed on a coarser grid."""
    factor = max(1, int(SHADING * scale / 4))
    share = shrunk(skin * 1.0, factor)
    sums = np.stack([shrunk(lab[..., c] * skin, factor) for c in range(3)], -1)
    coarse = local_mean(sums / np.maximum(share, 1e-6)[..., None], share, max(0.5, SHADING * scale / factor))
    fine = ndimage.zoom(coarse, (factor, factor, 1), order=1, mode="nearest", grid_mode=True)
    return fine[: skin.shape[0], : skin.shape[1]]


def roughness(lightness: np.ndarray, skin: np.ndarray, scale: float) -> np.ndarray:
    """How much the lightness of skin varies around each pixel (H, W, octaves), as a logarithm, weighed against CIELAB."""
    planes = []
    for fine in ROUGH:
        # averages of skin alone: the edge of a lesion is no roughness
        one, two = (local_mean(lightness[..., None], skin, max(0.5, s * scale)) for s in (fine, 2 * fine))
        energy = local_mean((one - two) ** 2, skin, max(1.5, ROUGH_SIGMA * scale))
        planes.append(0.5 * np.log(energy + 1e-2))
    return ROUGH_WEIGHT * np.concatenate(planes, -1)


def sampled(mask: np.ndarray) -> np.ndarray:
    """Places (2, n) of a mask's pixels, evenly thinned to `SAMPLE` at most."""
    pixels = np.array(np.nonzero(mask))
    return pixels[:, :: -(-pixels.shape[1] // SAMPLE) or 1]


def shrunk(plane: np.ndarray, factor: int) -> np.ndarray:
    """Means over squares of `factor` px; a last row or column that is not full repeats its last pixel."""
    if factor == 1:
        return plane
    height, width = (-(-side // factor) * factor for side in plane.shape)
    plane = np.pad(plane, ((0, height - plane.shape[0]), (0, width - plane.shape[1])), mode="edge")
    return sum(plane[y::factor, x::factor] for y in range(factor) for x in range(factor)) / factor**2


def moved(mask: np.ndarray, shift: tuple[int, int]) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Indices of a mask's pixels, and of the pixels `shift` away; those that would leave the image are left out."""
    y, x = np.nonzero(mask)
    there = y + shift[0], x + shift[1]
    inside = (there[0] >= 0) & (there[0] < mask.shape[0]) & (there[1] >= 0) & (there[1] < mask.shape[1])
    return (y[inside], x[inside]), (there[0][inside], there[1][inside])


def box(mask: np.ndarray) -> tuple[slice, slice]:
    """The rows and columns of a mask's pixels (H, W), and one more on each side."""
    (found,) = ndimage.find_objects(mask.astype(np.int8))
    return tuple(slice(max(0, side.start - 1), side.stop + 1) for side in found)


def inside(pixels: tuple[np.ndarray, ...], window: tuple[slice, slice]) -> np.ndarray:
    """Which pixels (rows, columns) lie in a window."""
    (y, x), (rows, columns) = pixels, window
    return (y >= rows.start) & (y < rows.stop) & (x >= columns.start) & (x < columns.stop)


class Patchwork:
    """One part of the region, covered piece by piece.

    Args:
        places: where pieces come from.
        part: (H, W) bool, the part.
        core: (H, W) bool, what has to be covered of it.
    """

    def __init__(self, places: Places, part: np.ndarray, core: np.ndarray):
        self.places, self.part = places, part
        self.edge = part & ~core  # where the photo may stay
        self.left = part.copy()
        self.paint = places.looks.copy()  # the photo with the pieces as they are copied
        self.piece = np.zeros(part.shape, np.int16)  # 0: the photo
        self.shifts: list[tuple[int, int]] = [(0, 0)]

    @property
    def pieces(self) -> int:
        """From how many places skin was copied."""
        return len(np.unique(self.piece[self.part & (self.piece > 0)]))

    def lay(self) -> None:
        """Lay pieces until the part is covered, or no skin is left for the rest."""
        while self.left.any() and len(self.shifts) <= MOST_PIECES:
            shift = self.places.best(self.paint, self.left, (self.places.known | self.part) & ~self.left)
            if shift is None:
                return
            self._add(shift)

    def _add(self, shift: tuple[int, int]) -> None:
        """Lay one piece: on all pixels that are still open, and on the better side of the cut through the overlap."""
        self.shifts.append(shift)
        here, there = moved(self.part, shift)
        usable = self.places.usable[there]
        here, there = tuple(i[usable] for i in here), tuple(i[usable] for i in there)
        offered = np.zeros_like(self.part)
        offered[here] = True
        fresh = offered & self.left
        overlap = offered & ~self.left & grown(fresh, OVERLAP * self.places.scale)
        overlap |= fresh & self.edge
        if not fresh.any():
            return
        fixed = fresh & ~self.edge
        window = box(fixed | overlap)
        copy = self.paint[window].copy()
        copy[offered[window]] = self.places.looks[there][inside(here, window)]
        taken = cut(self.paint[window][..., :3], copy[..., :3], fixed[window], overlap[window], self.places.scale)
        self.paint[window][taken] = copy[taken]
        self.piece[window][taken] = len(self.shifts) - 1
        self.left &= ~fresh

    def healed(self, photo: np.ndarray) -> np.ndarray:
        """Colours (n, 3) uint8 of the part's pixels, in reading order: the copies, joined without a step.

        Poisson's equation with the copies' own gradients (Perez et al. 2003, section 2), written as the surface to add to them.
        """
        window = box(self.part)
        piece = np.where(self.left, -1, self.piece)[window]
        changed = piece != 0
        colours = photo[window].copy()
        if changed.any():
            texture = self.paint[window][..., :3] * (piece > 0)[..., None]
            paint = self.places.lab[window].copy()
            paint[changed] = (self._skin()[window] + texture)[changed]
            steps = self._steps(paint, piece, window)
            paint[changed] += Membrane(changed, (steps != 0).any(-1), FADING * self.places.scale)(
                np.zeros_like(paint), steps
            )
            texture, source = texture[changed], self._source(piece[changed], window, *np.nonzero(changed))
            own, wanted = (lab_to_rgb(lab - texture) for lab in (self.places.lab[source], paint[changed]))
            colours[changed] = raised(photo[source], 255 * (wanted - own))
        return colours[self.part[window]]

    def _source(self, label: np.ndarray, window: tuple[slice, slice], y: np.ndarray, x: np.ndarray):
        """Rows and columns in the photo where pieces of these labels have the window's pixels (y, x) from."""
        shift = np.array(self.shifts)[np.maximum(label, 0)]
        return y + window[0].start + shift[:, 0], x + window[1].start + shift[:, 1]

    def _skin(self) -> np.ndarray:
        """The colour (H, W, 3) of the skin around, as it is lit there: a plane that is fitted to the nearer part of it."""
        usable = self.places.usable
        near = usable & grown(self.part, AROUND * self.places.scale)
        chosen = near if near.any() else usable if usable.any() else ~self.part
        return lighting(self.places.lab, chosen, order=1)

    def _steps(self, paint: np.ndarray, piece: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
        """Sum over neighbours (h, w, 3) of the steps that are missing between a pixel and its neighbour of another piece."""
        steps = np.zeros_like(paint)
        for axis in (0, 1):
            near, far = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
            y, x = np.nonzero(piece[near] != piece[far])
            one, two = (y, x), (y + (axis == 0), x + (axis == 1))
            wanted, count = np.zeros((len(y), 3)), np.zeros(len(y))
            for label in (piece[one], piece[two]):
                step, usable = self._step(label, one, two, window)
                wanted += step * usable[:, None]
                count += usable
            step = wanted / np.maximum(count, 1)[:, None] - (paint[one] - paint[two])
            np.add.at(steps, one, step)
            np.subtract.at(steps, two, step)
        return steps

    def _step(self, label: np.ndarray, one: tuple, two: tuple, window: tuple[slice, slice]):
        """(difference between two neighbours where the piece of that label comes from, whether both are skin there)."""
        height, width = self.part.shape
        places, usable = [], label > 0
        for place in (one, two):
            y, x = self._source(label, window, *place)
            usable &= (y >= 0) & (y < height) & (x >= 0) & (x < width)
            places.append((y.clip(0, height - 1), x.clip(0, width - 1)))
            usable &= self.places.usable[places[-1]]
        return (self.places.looks[places[0]] - self.places.looks[places[1]])[:, :3], usable


def cut(old: np.ndarray, new: np.ndarray, fixed: np.ndarray, overlap: np.ndarray, scale: float) -> np.ndarray:
    """Where the new piece is taken (h, w) bool: its fixed pixels, and the overlap on their side of the minimal cut.

    The cost of a cut between two pixels is how much the pictures differ at both (Kwatra et al. 2003), less what differs smoothly,
    which the membrane takes away.

    Args:
        old, new: (h, w, 3) CIELAB.
        fixed: (h, w) bool, pixels of the new piece alone.
        overlap: (h, w) bool, pixels of either; all others are of the old picture.
        scale: the photo's longer side over 512.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    if not overlap.any():
        return fixed
    if overlap.all() or not fixed.any():  # nothing to cut between
        return fixed | overlap
    both = overlap | fixed
    difference = (new - old) * overlap[..., None]
    sigma = (OVERLAP / 2 * scale, OVERLAP / 2 * scale, 0)
    share = ndimage.gaussian_filter(overlap * 1.0, sigma[:2])
    difference -= ndimage.gaussian_filter(difference, sigma) / np.maximum(share, 1e-6)[..., None]
    cost = np.sqrt((difference**2).sum(-1)) * overlap
    number = np.full(overlap.shape, -1)
    number[overlap] = np.arange(2, overlap.sum() + 2)
    rows, columns, capacity = [], [], []
    for axis in (0, 1):
        near, far = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        weight = np.rint(10 * (cost[near] + cost[far])).astype(np.int32) + 1
        for one, two in ((near, far), (far, near)):
            inner = overlap[one] & overlap[two]
            rows.append(number[one][inner]), columns.append(number[two][inner]), capacity.append(weight[inner])
            start = overlap[one] & fixed[two]  # flow from the new piece ...
            rows.append(np.zeros(start.sum(), int)), columns.append(number[one][start]), capacity.append(weight[start])
            end = overlap[one] & ~both[two]  # ... to the old picture
            rows.append(number[one][end]), columns.append(np.ones(end.sum(), int)), capacity.append(weight[end])
    size = int(overlap.sum()) + 2
    entries = np.concatenate(capacity), (np.concatenate(rows), np.concatenate(columns))
    graph = coo_matrix(entries, shape=(size, size)).tocsr().astype(np.int32)
    residual = graph - maximum_flow(graph, 0, 1, method="dinic").flow
    residual.data[residual.data < 0] = 0
    residual.eliminate_zeros()
    reached = breadth_first_order(residual, 0, return_predecessors=False)
    taken = fixed.copy()
    side = np.zeros(size, bool)
    side[reached] = True
    taken[overlap] = side[2:]
    return taken
