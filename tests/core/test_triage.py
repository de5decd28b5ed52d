"""Triage scores beside a plain second writing of their definitions, and each threshold at its value."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.colour import lab_to_rgb, rgb_to_lab, to_uint8
from cgddi.core.images import LESION, MARKER, RULER, SKIN
from cgddi.core.triage import faults, scores_of, turn
from cgddi.stages.canvases.settings import TriageSettings
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.color import rgb2lab

from tests.stages.lesion_mapped.world import photo


def by_hand(before, after, region, mask):
    """The scores by loops over pixels; colours by scikit-image."""
    old, new = rgb2lab(before), rgb2lab(after)
    height, width = mask.shape
    painted = np.argwhere(region > 0)
    reach = max(6, max(height, width) / 16)
    untouched = [(y, x) for y in range(height) for x in range(width) if mask[y, x] == SKIN and region[y, x] == 0]
    ring = [p for p in untouched if np.sqrt(((painted - p) ** 2).sum(1)).min() <= reach]
    ring = ring if len(ring) >= 30 else untouched
    inside = [(y, x) for y in range(height) for x in range(width) if region[y, x] >= 128]
    core = np.argwhere(mask == (LESION if (mask == LESION).any() else MARKER))

    def median(lab, pixels):
        return np.median([lab[tuple(p)] for p in pixels], axis=0)

    skin, skin_before, place, lesion = median(new, ring), median(old, ring), median(new, core), median(old, core)
    axis = lesion - skin_before
    far = np.array([np.linalg.norm(new[p] - skin) for p in ring])
    part = ((mask == SKIN) | (region > 0)) * 1.0
    smooth = gaussian_filter(new[..., 0] * part, 2) / np.maximum(gaussian_filter(part, 2), 1e-9)
    fine = new[..., 0] - smooth

    def ita(lab):
        return np.degrees(np.arctan2(lab[0] - 50, lab[2]))

    turned = abs(ita(median(new, inside)) - ita(skin))
    within, around = set(inside), set(ring)
    across, plain, edge = [], [], set()
    for y in range(height):
        for x in range(width):
            for two in ((y + 1, x), (y, x + 1)):
                if two[0] == height or two[1] == width:
                    continue
                step = np.linalg.norm(new[y, x] - new[two])
                if ((y, x) in within) != (two in within) and mask[two if (y, x) in within else (y, x)] == SKIN:
                    across.append(step)
                    edge.add((y, x))
                if (y, x) in around and two in around:
                    plain.append(step)
    sides = []
    for keep in (np.array(region >= 128), (region < 128) & (mask == SKIN)):
        share = gaussian_filter(keep * 1.0, 3)[..., None]
        sides.append(gaussian_filter(new * keep[..., None], (3, 3, 0)) / np.maximum(share, 1e-9))
    return {
        "lesion_contrast": np.linalg.norm(place - skin),
        "lesion_contrast_before": np.linalg.norm(axis),
        "lesion_left": float(np.clip((place - skin) @ axis / (axis @ axis), 0, 1)) if axis @ axis >= 2.3**2 else None,
        "texture_ratio": np.std([fine[p] for p in inside]) / np.std([fine[p] for p in ring]),
        "ita_change": min(turned, 360 - turned),
        "artefacts": np.mean([np.linalg.norm(new[p] - skin) > np.quantile(far, 0.99) + 5 for p in inside]),
        "border_step": np.mean(across),
        "border_step_skin": np.mean(plain),
        "border_jump": np.mean([np.linalg.norm(sides[0][p] - sides[1][p]) for p in edge]),
    }


def half_healed(seed, tone, size, **options):
    """A photo, a result in which half of the lesion's colour is left beside new stains, a region and the mask."""
    before, mask = photo(seed, size, tone, **options)
    rng = np.random.default_rng(seed)
    weight = gaussian_filter(np.isin(mask, (LESION, MARKER)) * 1.0, 1.5)
    region = np.rint(255 * (weight / weight.max())).astype(np.uint8)
    lab = rgb_to_lab(before)
    skin = np.median(lab[(mask == SKIN) & (region == 0)], axis=0)
    stains = (rng.random(mask.shape) < 0.2)[..., None] * (0, 25, -10)
    healed = to_uint8(lab_to_rgb(0.5 * lab + 0.5 * skin + stains + (3, 0, -4)))
    return before, np.where(region[..., None] >= 40, healed, before), region, mask


@pytest.mark.parametrize(
    ("seed", "tone", "size", "options"),
    [
        (1, "light", 40, {"lesion": 0.04}),
        (2, "dark", 56, {"lesion": 0.08}),
        (3, "medium", 112, {"lesion": 0.02, "marker": False}),
        (4, "medium", 48, {"lesion": 0.0}),  # only a marker was painted over
    ],
)
def test_scores_are_those_of_their_definitions(seed, tone, size, options):
    case = half_healed(seed, tone, size, **options)
    scores, expected = scores_of(*case), by_hand(*case)
    assert set(scores) == set(expected) and 0 < scores["artefacts"] < 1
    for name, value in expected.items():
        assert scores[name] == (None if value is None else pytest.approx(value, abs=0.02)), name


@pytest.mark.parametrize("left", [0, 12, 29, 30])
def test_where_little_skin_is_near_all_of_it_is_the_reference(left):
    before, after, region, mask = half_healed(1, "light", 40, lesion=0.04)
    mask = mask.copy()
    distance = distance_transform_edt(region == 0)
    near = np.flatnonzero((mask == SKIN) & (region == 0) & (distance <= 6))
    mask.reshape(-1)[near[left:]] = RULER  # so few pixels of skin stay near the region; the rest lies far off
    after = np.where((distance > 6)[..., None], after // 2, after)  # and is much darker
    scores, expected = scores_of(before, after, region, mask), by_hand(before, after, region, mask)
    assert scores["lesion_contrast"] == pytest.approx(expected["lesion_contrast"], abs=0.02)
    assert (scores["lesion_contrast"] < 15) == (left == 30)


def test_angles_differ_by_at_most_half_a_turn():
    assert [turn(angle) for angle in (350, -190, 180, -5, 0)] == [10, 170, 180, 5, 0]


def test_a_lesion_that_was_never_visible_leaves_nothing():
    before, mask = photo(5, 48, "medium", lesion=0.05, marker=False)
    before = np.where((mask == LESION)[..., None], np.median(before[mask == SKIN], axis=0), before).astype(np.uint8)
    region = ((mask == LESION) * 255).astype(np.uint8)
    assert scores_of(before, before, region, mask)["lesion_left"] is None


FAULTLESS = {
    **{"lesion_contrast": 0.0, "lesion_left": 0.0, "texture_ratio": 1.0, "ita_change": 0.0},
    **{"artefacts": 0.0, "border_step": 1.0, "border_step_skin": 1.0},
}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lesion_contrast": 6.0}, None),
        ({"lesion_contrast": 6.001}, "lesion still there: colour difference 6.0"),
        ({"lesion_left": 0.4, "lesion_contrast": 5.0}, None),
        ({"lesion_left": 0.401, "lesion_contrast": 5.0}, "lesion still there: 40% of its contrast"),
        ({"lesion_left": 1.0, "lesion_contrast": 2.3}, None),  # not visible
        ({"lesion_left": 1.0, "lesion_contrast": 2.301}, "lesion still there: 100%"),
        ({"lesion_left": None, "lesion_contrast": 5.0}, None),
        ({"texture_ratio": 0.4}, None),
        ({"texture_ratio": 0.399}, "texture"),
        ({"texture_ratio": 2.5}, None),
        ({"texture_ratio": 2.501}, "texture"),
        ({"ita_change": 12.0}, None),
        ({"ita_change": 12.001}, "tone"),
        ({"artefacts": 0.05}, None),
        ({"artefacts": 0.051}, "artefacts: 5%"),
        ({"border_step": 4.0}, None),
        ({"border_step": 4.001}, "artefacts: step"),
        ({"border_step": 4.001, "border_step_skin": 1.1}, None),
        ({"border_step": None, "border_step_skin": None}, None),
    ],
)
def test_each_threshold_at_its_value(changes, words):
    reasons = faults({**FAULTLESS, **changes}, TriageSettings())
    assert len(reasons) == (words is not None) and all(reason.startswith(words) for reason in reasons)


def test_thresholds_are_settings():
    strict = TriageSettings(
        lesion_contrast=1, lesion_left=0, texture=(1.1, 2), ita_change=0, artefacts=0.01, border_step=0.5
    )
    spoilt = {**FAULTLESS, "lesion_contrast": 3.0, "ita_change": 0.1, "artefacts": 0.02, "border_step": 1.6}
    assert len(faults(spoilt, strict)) == 5 and faults(spoilt, TriageSettings()) == []
