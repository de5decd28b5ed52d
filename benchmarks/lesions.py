"""Are the lesions of a run's samples as large, as ragged and as coloured as those of its photos?

`LESIONS_RUN=results/toy` names a run. One finder looks for lesions in photos and samples alike: what it misses it misses in both.
How far it can be trusted is what it finds in photos of the toy world, whose masks are exact: `ours`, mean overlap (IoU) with these;
`reference`: that of the best disc around the same place. Of a run, by disease, medians of the samples that passed over those of the
photos: area, outline (circumference squared over 4 pi area, 1 for a disc), and the colour of the lesion less that of the skin.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path

import numpy as np

SIDE, PHOTOS = 64, 5
SMOOTH = 0.7
"""Sigma in px of the blur before anything is measured: the grain of a photo has no part in an outline."""
PLAIN = (8.0, 5.0, 4.0)
"""Colour differences to the skin's light and colour (a quadratic surface) up to which a pixel counts for the next fit of it."""
EDGE, FAINTEST = 0.5, 2.5
"""A lesion reaches down to half of its own colour difference, and to no less than this."""


def run() -> dict:
    """Overlap of what is found with exact masks; of the run that is named, the ratios by disease."""
    from cgddi.core.images import LESION, TONES
    from cgddi.core.judges import bare
    from cgddi.toy.diseases import DISEASES
    from cgddi.toy.scene import render_photo

    ours, discs = [], []
    for number in range(PHOTOS * len(DISEASES)):
        rng, disease = np.random.default_rng([4, number]), DISEASES[number % len(DISEASES)]
        photo = render_photo(rng, TONES[number % 3], disease.box.sample(rng), ruler=number % 4 == 0)
        true, (region, _) = photo.mask == LESION, find(photo.image, bare(photo.mask))
        ours.append((region & true).sum() / (region | true).sum())
        y, x = np.nonzero(region)
        far = np.hypot(*(np.mgrid[:SIDE, :SIDE] - np.array([y.mean(), x.mean()])[:, None, None]))
        discs.append(max((d & true).sum() / (d | true).sum() for d in (far <= r for r in range(1, 20))))
    row = {"name": "lesions", "unit": "overlap with exact masks (IoU)", "ours": round(float(np.mean(ours)), 2)}
    row |= {"reference": round(float(np.mean(discs)), 2), "ratio": round(float(np.mean(ours) / np.mean(discs)), 2)}
    if path := os.environ.get("LESIONS_RUN"):
        row |= compared(Path(path))
    return row


def find(rgb: np.ndarray, part: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The most conspicuous lesion of a picture, and its colour.

    Args:
        rgb: (H, W, 3) uint8, some 64 px.
        part: bool (H, W), skin and lesion (see `core.judges.bare`).

    Returns:
        Its region, bool (H, W), and its median colour less that of the skin, CIELAB (3,).
    """
    from cgddi.core import judges
    from cgddi.core.colour import rgb_to_lab
    from scipy import ndimage

    lab = ndimage.gaussian_filter(rgb_to_lab(rgb), (SMOOTH, SMOOTH, 0))
    y, x = (grid / max(part.shape) - 0.5 for grid in np.mgrid[: part.shape[0], : part.shape[1]])
    surface = np.stack([np.ones_like(x), x, y, x * x + y * y], axis=-1)
    plain = part & (np.linalg.norm(lab - np.median(lab[part], axis=0), axis=-1) < 25)
    for cut in PLAIN:
        off = lab - surface @ np.linalg.lstsq(surface[plain], lab[plain], rcond=None)[0]
        nearer = part & (np.linalg.norm(off, axis=-1) < cut)
        plain = nearer if nearer.sum() > part.size / 20 else plain
    strength = (judges.contrasts(judges.View(off, part * 1.0)) ** 2).sum(-1)
    size, *place = np.unravel_index(int(strength.argmax()), strength.shape)
    far = np.hypot(*(np.mgrid[: part.shape[0], : part.shape[1]] - np.array(place)[:, None, None]))
    near = part & (far <= 2 * judges.SIZES[size] * max(part.shape))
    differs = np.linalg.norm(off, axis=-1) * part
    region = differs > max(EDGE * np.quantile(differs[near], 0.75), FAINTEST)
    region = ndimage.binary_fill_holes(ndimage.median_filter(ndimage.binary_closing(region), 3) & part) & part
    labels, _ = ndimage.label(region)
    within = np.bincount(labels[near], minlength=2)
    region = labels == (labels[tuple(place)] or 1 + within[1:].argmax())
    return region, np.median(off[region], axis=0) if region.any() else np.zeros(3)


def outline(region: np.ndarray) -> float:
    """Circumference squared over 4 pi area: 1 of a disc, more of what is ragged or long. The circumference by Crofton's formula in
    four directions."""
    cell = np.pad(region, 1)
    straight = (cell[1:] != cell[:-1]).sum() + (cell[:, 1:] != cell[:, :-1]).sum()
    slanted = (cell[1:, 1:] != cell[:-1, :-1]).sum() + (cell[1:, :-1] != cell[:-1, 1:]).sum()
    return float((np.pi / 8 * (straight + slanted / np.sqrt(2))) ** 2 / (4 * np.pi * region.sum()))


def compared(results: Path) -> dict:
    """By disease: `area`, `outline` (ratios of medians), `colour` of samples and photos."""
    from cgddi.core.archive import Archive
    from cgddi.core.images import decode_png
    from cgddi.core.judges import bare, usable

    masks = {}
    found: dict[str, dict[str, list[np.ndarray]]] = defaultdict(lambda: {"photo": [], "sample": []})

    def measure(disease: str, kind: str, rgb: np.ndarray, part: np.ndarray) -> None:
        region, colour = find(rgb, part)
        if region.any():
            found[disease][kind].append(np.array([region.mean(), outline(region), *colour]))

    for path in sorted(results.glob("masks/*/*.tar")):
        for row in (archive := Archive(path)).rows:
            if "mask.png" in row["members"]:
                masks[row["image_id"]] = decode_png(archive.read(row, "mask.png"))
                measure(path.name.split(".")[0], "photo", decode_png(archive.read(row)), bare(masks[row["image_id"]]))
    for path in sorted(results.glob("semantic/*/*/*.tar")):
        for row in (archive := Archive(path)).rows:
            if row.get("used", True):
                measure(path.stem, "sample", decode_png(archive.read(row)), usable(masks[row["canvas"]], (SIDE, SIDE)))
    table = {}
    for disease in (name for name, kinds in sorted(found.items()) if kinds["sample"]):
        photo, sample = (np.median(found[disease][kind], axis=0) for kind in ("photo", "sample"))
        table[disease] = dict(zip(("area", "outline"), (sample / photo)[:2].round(2).tolist(), strict=True)) | {
            kind: median[2:].round(1).tolist() for kind, median in (("sample", sample), ("photo", photo))
        }
    return table
