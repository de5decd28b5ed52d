"""Healing a hole in plain skin at 512 px on one core, against scikit-image's biharmonic inpainting on a coarser grid with grain."""

from __future__ import annotations

import time

import numpy as np

PHOTOS, RADIUS, UNKNOWNS = 6, 45, 6000


def reference(photo: np.ndarray, region: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The classical way: a biharmonic surface through the blurred photo, and the fine residuals of skin drawn at random."""
    from scipy.ndimage import gaussian_filter, zoom
    from skimage.restoration import inpaint_biharmonic

    hole = region > 0
    factor = max(1, int(np.ceil(np.sqrt(hole.sum() / UNKNOWNS))))  # the solver's time grows faster than the hole
    shading = gaussian_filter(photo.astype(float), (2, 2, 0))
    small = inpaint_biharmonic(shading[::factor, ::factor] / 255, hole[::factor, ::factor], channel_axis=-1) * 255
    surface = zoom(small, (factor, factor, 1), order=1)[: len(photo), : len(photo)]
    fine = (photo - shading)[~hole]
    painted = photo.astype(float)
    painted[hole] = surface[hole] + fine[rng.integers(len(fine), size=hole.sum())]
    return np.rint(painted).clip(0, 255).astype(np.uint8)


def run() -> dict:
    """Milliseconds per photo of one core's time; beside them both ways' colour difference and contrast by octave."""
    from cgddi.core.colour import delta_e, rgb_to_lab
    from cgddi.core.heal import heal
    from cgddi.core.images import LESION, SKIN
    from cgddi.stages.healthy.region import painted_region

    from tests.core.procedural import hole, octave_contrast, skin

    spent: dict[str, list[float]] = {"ours": [], "reference": []}
    off: dict[str, list[float]] = {"ours": [], "reference": []}
    contrast: dict[str, list[list[float]]] = {"ours": [], "reference": []}
    for number in range(-1, PHOTOS):  # the first warms up
        truth = skin(max(number, 0), tone=("light", "medium", "dark")[number % 3])
        mask = hole(max(number, 0), radius=RADIUS)
        region = painted_region(mask)
        spoilt = np.where((mask == LESION)[..., None], (90, 30, 30), truth).astype(np.uint8)
        lab, inside = rgb_to_lab(truth), region >= 128
        ways = {
            "ours": lambda spoilt=spoilt, region=region, mask=mask: heal(spoilt, region, mask == SKIN).picture,
            "reference": lambda spoilt=spoilt, region=region: reference(spoilt, region, np.random.default_rng(0)),
        }
        for name, paint in ways.items():
            began = time.process_time()
            painted = rgb_to_lab(paint())
            if number >= 0:
                spent[name].append((time.process_time() - began) * 1e3)
                off[name].append(float(np.median(delta_e(painted, lab)[inside])))
                theirs = octave_contrast(lab[..., 0], inside)
                contrast[name].append(list(np.array(octave_contrast(painted[..., 0], inside)) / theirs))
    ours, theirs = (float(np.median(spent[name])) for name in ("ours", "reference"))
    octaves = ("2 px", "4 px", "8 px", "16 px")
    return {
        "name": "heal",
        "unit": "ms per photo of 512 px (median)",
        "ours": round(ours),
        "reference": round(theirs),
        "ratio": round(theirs / ours, 2),
        "delta_e": {name: round(float(np.median(values)), 2) for name, values in off.items()},
        "contrast_against_truth": {
            name: dict(zip(octaves, np.median(values, 0).round(2).tolist(), strict=True))
            for name, values in contrast.items()
        },
    }
