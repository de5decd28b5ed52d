"""Triage of a healthy image: scores for the four published discard criteria, and what they find at fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy import ndimage

from cgddi.core.colour import delta_e, rgb_to_lab, typology_angle
from cgddi.core.images import LESION, MARKER, SKIN

LEAST_RING = 30
"""Fewer skin pixels than this near the region are no reference; then all skin of the photo is."""
NEAR = 6, 1 / 16
"""How far skin near the region reaches: px at least, and share of the image's longer side."""
FINE, SIDES = 2.0, 3.0
"""Gaussian sigmas in px: of fine texture, and of the colours averaged on either side of an edge."""
VISIBLE = 2.3
"""Smallest visible CIELAB difference (Mahy et al. 1994)."""
STRANGE = 0.99, 5.0
"""A colour is strange when it lies this much further from the skin's median than this quantile of the skin does."""


def scores_of(before: np.ndarray, after: np.ndarray, region: np.ndarray, mask: np.ndarray) -> dict[str, float | None]:
    """Scores of one result. Colours are CIELAB, differences CIE76.

    Args:
        before, after: (H, W, 3) uint8, the photo and the result.
        region: (H, W) uint8, the blending weight.
        mask: (H, W), five-class mask of the photo.

    Returns:
        lesion_contrast: difference of the median colours of the former lesion and of the skin around the region;
        lesion_contrast_before: the same in the photo;
        lesion_left: where the former lesion lies between the skin's colour (0) and its own in the photo (1), or None when the two
        differed by less than 2.3 in the photo;
        texture_ratio: spread of the fine lightness texture in the region over that in the skin around it;
        ita_change: degrees between the individual typology angles of the region and of the skin around it;
        artefacts: share of the region in colours further from the skin's median than 99% of the skin, by 5 or more;
        border_step: mean difference of neighbouring pixels across the region's edge; border_step_skin: of neighbours in the skin;
        border_jump: mean difference of the colours averaged on either side of the edge.
    """
    lab_before, lab_after = rgb_to_lab(before), rgb_to_lab(after)
    ring = reference_skin(region, mask)
    inside = region >= 128
    core = mask == LESION
    if not core.any():
        core = mask == MARKER
    skin, place, lesion = (
        np.median(lab[part], axis=0) for lab, part in ((lab_after, ring), (lab_after, core), (lab_before, core))
    )
    skin_before = np.median(lab_before[ring], axis=0)
    axis = lesion - skin_before
    contrast_before = float(np.linalg.norm(axis))
    left = float(np.clip((place - skin) @ axis / contrast_before**2, 0, 1)) if contrast_before >= VISIBLE else None
    fine = fine_texture(lab_after[..., 0], (mask == SKIN) | (region > 0))
    spread = delta_e(lab_after[ring], skin)
    strange = delta_e(lab_after[inside], skin) > np.quantile(spread, STRANGE[0]) + STRANGE[1]
    step, step_skin, jump = border(lab_after, inside, mask == SKIN, ring)
    return {
        "lesion_contrast": rounded(float(np.linalg.norm(place - skin))),
        "lesion_contrast_before": rounded(contrast_before),
        "lesion_left": rounded(left),
        "texture_ratio": rounded(float(fine[inside].std() / max(fine[ring].std(), 1e-3))),
        "ita_change": rounded(turn(float(typology_angle(np.median(lab_after[inside], axis=0)) - typology_angle(skin)))),
        "artefacts": rounded(float(strange.mean())),
        "border_step": rounded(step),
        "border_step_skin": rounded(step_skin),
        "border_jump": rounded(jump),
    }


def fine_texture(lightness: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Lightness (H, W) less its local mean (Gaussian, sigma 2 px) over one part, so that no edge of a ruler counts as texture."""
    share = ndimage.gaussian_filter(part * 1.0, FINE)
    return lightness - ndimage.gaussian_filter(lightness * part, FINE) / np.maximum(share, 1e-9)


def rounded(value: float | None) -> float | None:
    """Three digits, for a stable manifest."""
    return None if value is None else round(value, 3)


def turn(angle: float) -> float:
    """An angle between -180 and 180 degrees, without sign."""
    return abs((angle + 180) % 360 - 180)


def reference_skin(region: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Untouched skin (H, W) bool near the region: within a sixteenth of the image, or all of it where too little is near."""
    untouched = (mask == SKIN) & (region == 0)
    near = ndimage.distance_transform_edt(region == 0) <= max(NEAR[0], max(region.shape) * NEAR[1])
    return untouched & near if (untouched & near).sum() >= LEAST_RING else untouched


def border(
    lab: np.ndarray, inside: np.ndarray, skin: np.ndarray, ring: np.ndarray
) -> tuple[float | None, float | None, float | None]:
    """(step across the edge, step between skin pixels, jump of averages across the edge) in colour difference; None: no edge."""
    edge_steps, skin_steps = [], []
    on_edge = np.zeros(inside.shape, bool)
    for axis in (0, 1):
        near, far = (np.s_[:-1], np.s_[1:]) if axis == 0 else (np.s_[:, :-1], np.s_[:, 1:])
        step = delta_e(lab[near], lab[far])
        outside_is_skin = np.where(inside[near], skin[far], skin[near])
        crossing = (inside[near] != inside[far]) & outside_is_skin
        edge_steps.append(step[crossing])
        skin_steps.append(step[ring[near] & ring[far]])
        on_edge[near] |= crossing
    edge, plain = np.concatenate(edge_steps), np.concatenate(skin_steps)
    if not len(edge) or not len(plain):
        return None, None, None
    sides = [_average(lab, part)[on_edge] for part in (inside, ~inside & skin)]
    return float(edge.mean()), float(plain.mean()), float(delta_e(*sides).mean())


def _average(lab: np.ndarray, part: np.ndarray) -> np.ndarray:
    """Local mean colour (Gaussian, sigma 3 px) of the pixels of one part."""
    share = ndimage.gaussian_filter(part * 1.0, SIDES)[..., None]
    return ndimage.gaussian_filter(lab * part[..., None], (SIDES, SIDES, 0)) / np.maximum(share, 1e-9)


def faults(scores: Mapping[str, float | None], limits: Any) -> list[str]:
    """Reasons to discard an image, in words; none: keep.

    Args:
        scores: as `scores_of` gives them.
        limits: thresholds, with the attributes of `CanvasesSettings.triage`.
    """
    reasons = []
    contrast = scores["lesion_contrast"]
    left = scores["lesion_left"]
    if contrast > limits.lesion_contrast:
        reasons.append(f"lesion still there: colour difference {contrast:.1f}")
    elif left is not None and left > limits.lesion_left and contrast > VISIBLE:
        reasons.append(f"lesion still there: {left:.0%} of its contrast is left")
    if not limits.texture[0] <= scores["texture_ratio"] <= limits.texture[1]:
        reasons.append(f"texture: {scores['texture_ratio']:.2f} of the skin around it")
    if scores["ita_change"] > limits.ita_change:
        reasons.append(f"tone: ITA changes by {scores['ita_change']:.0f} degrees")
    if scores["artefacts"] > limits.artefacts:
        reasons.append(f"artefacts: {scores['artefacts']:.0%} of the place in no colour of the skin around it")
    if scores["border_step"] is not None and scores["border_step"] - scores["border_step_skin"] > limits.border_step:
        reasons.append(
            f"artefacts: step of {scores['border_step']:.1f} at the border ({scores['border_step_skin']:.1f} in skin)"
        )
    return reasons
