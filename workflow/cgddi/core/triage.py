"""Triage of a healthy image: scores for the four published discard criteria, and what they find at fault.

Lengths in px are meant for a photo whose longer side is 512 px, and grow and shrink with it.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from scipy import ndimage

from cgddi.core.colour import delta_e, rgb_to_lab, typology_angle
from cgddi.core.images import BACKGROUND, LESION, MARKER, RULER, SKIN
from cgddi.core.skin import BLOTCH, LEAST_SIGMA, grown, lighting, local_mean, scale_of

LEAST_RING = 30
"""Fewer skin pixels than this near the region are no reference; then all skin of the photo is."""
NEAR, LEAST_NEAR = 48, 6
"""How far skin near the region reaches, and at least so many px of any photo."""
OCTAVES, FINEST = (1, 2, 4, 8, 16), 0.45
"""Sizes in px of texture: lightness between Gaussian sigmas of half the size and the size. Smaller sigmas show nothing."""
FLAT = 0.02
"""A spread of lightness that is no texture."""
JUDGED = (1, 2, 4, 8)
"""Octaves that are judged; 16 px is mottle, of which a region may have more or less than the skin around it."""
SIDES = 3.0
"""Gaussian sigma of the colours averaged on either side of an edge."""
VISIBLE = 2.3
"""Smallest visible CIELAB difference (Mahy et al. 1994)."""
STRANGE = 0.99, 5.0
"""A colour is strange when it lies this much further from the skin's lighting than this quantile of the skin does."""
WORST = 0.95
"""Quantile by which stains and seams are measured."""
MOTTLED = 1.5
"""What is left of a lesion, or another tone, shows when it differs this many times as much as the skin around does, and visibly."""
BITTEN = 10.0
"""A pixel of ruler or cloth that changed by more (CIE76) is bitten."""


def scores_of(before: np.ndarray, after: np.ndarray, region: np.ndarray, mask: np.ndarray) -> dict[str, float | None]:
    """Scores of one result. Colours are CIELAB, differences CIE76; the skin's colour is the plane through the skin around.

    Args:
        before, after: (H, W, 3) uint8, the photo and the result.
        region: (H, W) uint8, the blending weight.
        mask: (H, W), five-class mask of the photo.

    Returns:
        lesion_contrast: difference of the former lesion's median colour from the skin's;
        lesion_contrast_before: the same in the photo;
        lesion_left: where the former lesion lies between the skin's colour (0) and its own in the photo (1), or None when the two
        differed by less than 2.3 in the photo;
        mottle: median difference of local colours of the skin around from the plane;
        stain: how much further local colours of the region lie from the skin's than those of the skin around do (95% quantiles);
        texture_1 to texture_16: local spread of the lightness texture of so many px in the region over that around (geometric
        means), or None where the photo is too small to show it; grain: the finest of them over the least of the coarser ones
        judged (noise over a blur);
        ita_change: degrees between the individual typology angles of the region and of the skin around, 0 where L and b differ by
        less than 2.3 or than such skin does (near L = 50, b = 0 the angle turns at nothing);
        artefacts: share of the region in colours further from the skin's than 99% of the skin, by 5 or more;
        bitten: pixels of ruler and background that changed, as a share of the region;
        border_step: mean difference of neighbouring pixels across the region's edge; border_step_skin: of neighbours in the skin;
        seam: how much the colours averaged on either side of the edge differ more than in the skin around (95% quantiles).
    """
    scale = scale_of(region.shape)
    window = (
        around(region > 0, 2 * reach_of(scale)) if near_skin(region, mask, scale).sum() >= LEAST_RING else np.s_[:, :]
    )
    before, after, region, mask = (each[window] for each in (before, after, region, mask))
    lab_before, lab_after = rgb_to_lab(before), rgb_to_lab(after)
    ring, inside = reference_skin(region, mask, scale), region >= 128
    shown = (mask == SKIN) | (region > 0)
    core = mask == LESION
    if not core.any():
        core = mask == MARKER
    skin = lighting(lab_after, ring, order=1)
    place, lesion = (np.median((lab - skin)[core], axis=0) for lab in (lab_after, lab_before))
    contrast_before = float(np.linalg.norm(lesion))
    left = float(np.clip(place @ lesion / contrast_before**2, 0, 1)) if contrast_before >= VISIBLE else None
    local = delta_e(local_mean(lab_after, shown, max(LEAST_SIGMA, BLOTCH * scale)), skin)
    mottle = float(np.median(local[ring]))
    strange = delta_e(lab_after, skin) - np.quantile(delta_e(lab_after, skin)[ring], STRANGE[0]) > STRANGE[1]
    others = (mask == RULER) | (mask == BACKGROUND)
    bitten = (others & (delta_e(lab_before, lab_after) > BITTEN)).sum() / max(1, inside.sum())
    tone, usual = (np.median(lab[inside], axis=0) for lab in (lab_after, skin))
    turned = turn(float(typology_angle(tone) - typology_angle(usual)))
    step, step_skin, seam = border(lab_after, inside, mask == SKIN, ring, scale)
    scores = {
        "lesion_contrast": float(np.linalg.norm(place)),
        "lesion_contrast_before": contrast_before,
        "lesion_left": left,
        "mottle": mottle,
        "stain": float(np.quantile(local[inside], WORST) - np.quantile(local[ring], WORST)),
        **texture(lab_after[..., 0], shown, inside, ring, scale),
        "ita_change": turned if np.hypot(*(tone - usual)[[0, 2]]) > max(VISIBLE, MOTTLED * mottle) else 0.0,
        "artefacts": float(strange[inside].mean()),
        "bitten": float(bitten),
        "border_step": step,
        "border_step_skin": step_skin,
        "seam": seam,
    }
    return {name: None if value is None else round(value, 3) for name, value in scores.items()}


def texture(
    lightness: np.ndarray, shown: np.ndarray, inside: np.ndarray, ring: np.ndarray, scale: float
) -> dict[str, float | None]:
    """The scores texture_1 to texture_16 and grain (see `scores_of`).

    Args:
        lightness: (H, W).
        shown: (H, W) bool, region and skin: averages leave the rest out, so that no edge of a ruler counts as texture.
        inside, ring: (H, W) bool, the region and the skin around it.
        scale: the photo's longer side over 512.
    """
    ratios: dict[int, float] = {}
    for size in OCTAVES:
        fine, coarse = size * scale / 2, size * scale
        if fine >= FINEST:
            planes = [local_mean(lightness[..., None], shown, sigma)[..., 0] for sigma in (fine, coarse)]
            # the geometric mean of the local spread: a few highlights or hairs do not decide
            contrast = np.log(
                np.sqrt(local_mean((planes[0] - planes[1])[..., None] ** 2, shown, coarse)[..., 0]) + FLAT
            )
            ratios[size] = float(np.exp(contrast[inside].mean() - contrast[ring].mean()))
    judged = [ratios[size] for size in JUDGED if size in ratios]
    grain = judged[0] / max(min(judged[1:]), 1e-3) if len(judged) > 1 else None
    return {**{f"texture_{size}": ratios.get(size) for size in OCTAVES}, "grain": grain}


def turn(angle: float) -> float:
    """An angle between -180 and 180 degrees, without sign."""
    return abs((angle + 180) % 360 - 180)


def reach_of(scale: float) -> float:
    """How far (px) skin near the region reaches."""
    return max(LEAST_NEAR, NEAR * scale)


def near_skin(region: np.ndarray, mask: np.ndarray, scale: float) -> np.ndarray:
    """Untouched skin (H, W) bool within `reach_of` the region."""
    return (mask == SKIN) & (region == 0) & grown(region > 0, reach_of(scale))


def reference_skin(region: np.ndarray, mask: np.ndarray, scale: float) -> np.ndarray:
    """Untouched skin (H, W) bool near the region, or all of it where too little is near."""
    near = near_skin(region, mask, scale)
    return near if near.sum() >= LEAST_RING else (mask == SKIN) & (region == 0)


def around(part: np.ndarray, margin: float) -> tuple[slice, slice]:
    """The box of a part (H, W) bool, with a margin in px."""
    (box,) = ndimage.find_objects(part.astype(np.int8))
    return tuple(slice(max(0, side.start - int(margin)), side.stop + int(margin)) for side in box)


def border(
    lab: np.ndarray, inside: np.ndarray, skin: np.ndarray, ring: np.ndarray, scale: float
) -> tuple[float | None, float | None, float | None]:
    """(step across the edge, step between skin pixels, seam) in colour difference, see `scores_of`; None: no edge."""
    apart = max(1, round(scale))
    edge_steps, skin_steps = [], []
    on_edge = np.zeros(inside.shape, bool)
    for axis in (0, 1):
        near, far = pair(axis, apart)
        step = delta_e(lab[near], lab[far])
        outside_is_skin = np.where(inside[near], skin[far], skin[near])
        crossing = (inside[near] != inside[far]) & outside_is_skin
        edge_steps.append(step[crossing])
        skin_steps.append(step[ring[near] & ring[far]])
        on_edge[near] |= crossing
    edge, plain = np.concatenate(edge_steps), np.concatenate(skin_steps)
    if not len(edge) or not len(plain):
        return None, None, None
    sigma = max(LEAST_SIGMA, SIDES * scale)
    within, without = (local_mean(lab, part, sigma) for part in (inside, ~inside & skin))
    seam = np.quantile(delta_e(within, without)[on_edge], WORST)
    # the middles of both sides of an edge lie 1.6 sigma apart
    usual = [
        delta_e(without[near], without[far])[ring[near] & ring[far]]
        for near, far in (pair(axis, max(1, round(1.6 * sigma))) for axis in (0, 1))
    ]
    usual = np.concatenate(usual)
    return float(edge.mean()), float(plain.mean()), float(seam - np.quantile(usual, WORST)) if len(usual) else None


def pair(axis: int, apart: int) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """Slices of all pixels with a neighbour so many px further along an axis, and of these neighbours."""
    whole = (slice(None),) * axis
    return (*whole, slice(None, -apart)), (*whole, slice(apart, None))


class Judged(NamedTuple):
    """Reasons to discard an image, in words (none: keep), and the largest share of a threshold that a score reaches."""

    reasons: list[str]
    worst: float


def judge(scores: Mapping[str, float | None], limits: Any) -> Judged:
    """What is at fault with an image.

    Args:
        scores: as `scores_of` gives them.
        limits: thresholds, with the attributes of `CanvasesSettings.triage`.
    """
    checks = list(_checks(scores, limits))
    return Judged([words for share, words in checks if share > 1], max(share for share, _ in checks))


def _checks(scores: Mapping[str, float | None], limits: Any) -> Iterator[tuple[float, str]]:
    """(score as a share of its threshold, what is wrong if that passes 1) of each score."""
    contrast, left = scores["lesion_contrast"], scores["lesion_left"]
    yield share(contrast, limits.lesion_contrast), f"lesion still there: colour difference {contrast:.1f}"
    if left is not None and limits.lesion_contrast >= contrast > max(VISIBLE, MOTTLED * scores["mottle"]):
        yield share(left, limits.lesion_left), f"lesion still there: {left:.0%} of its contrast is left"
    yield (
        share(scores["stain"], limits.stain),
        f"lesion still there: a stain {scores['stain']:.1f} off the skin's colours",
    )
    low, high = np.log(limits.texture)
    for size in JUDGED:
        ratio = scores[f"texture_{size}"]
        if ratio is not None:
            off = np.log(max(ratio, 1e-3))
            yield share(off, high if off > 0 else low), f"texture of {size} px: {ratio:.2f} of the skin around it"
    if scores["grain"] is not None:
        yield (
            share(np.log(max(scores["grain"], 1)), np.log(limits.grain)),
            f"texture: noise over a blur ({scores['grain']:.2f})",
        )
    yield share(scores["ita_change"], limits.ita_change), f"tone: ITA changes by {scores['ita_change']:.0f} degrees"
    strange, bitten = scores["artefacts"], scores["bitten"]
    yield share(strange, limits.artefacts), f"artefacts: {strange:.0%} of the place in no colour of the skin around it"
    yield share(bitten, limits.bitten), f"artefacts: ruler or cloth painted over ({bitten:.1%} of the place)"
    if scores["border_step"] is not None:
        step, usual = scores["border_step"], scores["border_step_skin"]
        yield (
            share(step - usual, limits.border_step),
            f"artefacts: step of {step:.1f} at the border ({usual:.1f} in skin)",
        )
    if scores["seam"] is not None:
        yield share(scores["seam"], limits.seam), f"artefacts: a seam of {scores['seam']:.1f} at the border"


def share(value: float, limit: float) -> float:
    """A value as a share of its threshold; any value above a threshold of 0 passes it."""
    return float(value / limit) if limit else float("inf") if value > 0 else 0.0
