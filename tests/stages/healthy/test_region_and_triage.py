"""The painted region, blending, the classical painter and the triage scores."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core import triage
from cgddi.core.colour import lab_to_rgb, rgb_to_lab, to_uint8
from cgddi.core.images import LESION, MARKER, SKIN
from cgddi.stages.healthy.biharmonic import BiharmonicPainter, grain_for
from cgddi.stages.healthy.region import blend, healthy_mask, match_border, painted_region, why_unpaintable
from cgddi.stages.healthy.settings import TriageSettings
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays
from scipy.ndimage import gaussian_filter

from tests.stages.lesion_mapped.world import photo

pictures = arrays.arrays(np.uint8, (12, 12, 3))


@settings(max_examples=60, deadline=None)
@given(before=pictures, painted=pictures, region=arrays.arrays(np.uint8, (12, 12)))
def test_outside_the_region_not_a_bit_changes(before, painted, region):
    result = blend(before, painted, region)
    assert (result[region == 0] == before[region == 0]).all()
    assert (result[region == 255] == painted[region == 255]).all()
    low, high = np.minimum(before, painted), np.maximum(before, painted)
    assert ((result >= low) & (result <= high)).all()


def test_the_region_is_the_published_dilation_and_blur():
    mask = np.full((40, 40), SKIN)
    mask[20, 20] = LESION
    square = np.zeros((40, 40))
    square[18:23, 18:23] = 1
    expected = np.rint(gaussian_filter(square, 2.0, mode="nearest") * 255)
    assert (painted_region(mask, 5, 2.0, full_cover=False) == expected).all()
    covered = painted_region(mask, 5, 2.0)
    assert covered[20, 20] == 255
    assert ((covered > 0) == (expected > 0)).all()


def test_full_cover_leaves_nothing_of_lesion_and_marker():
    mask = photo(1, 128)[1]
    region = painted_region(mask)
    assert (region[(mask == LESION) | (mask == MARKER)] == 255).all()
    assert set(np.unique(healthy_mask(mask))) == set(np.unique(mask)) - {LESION, MARKER}


def test_matching_the_border_removes_a_colour_cast():
    picture, mask = photo(2, 96)
    region = painted_region(mask)
    cast = np.clip(picture.astype(int) + (12, -9, 5), 0, 255).astype(np.uint8)
    matched = match_border(picture, cast, region)
    inside = region > 0
    assert np.abs(matched[inside].astype(int) - picture[inside]).mean() < 1.5
    assert np.abs(cast[inside].astype(int) - picture[inside]).mean() > 7


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda mask: np.full_like(mask, SKIN), "no lesion"),
        (lambda mask: np.full_like(mask, LESION), "covers the whole image"),
        (lambda mask: np.where(mask == SKIN, 0, mask), "too little skin"),
        (lambda mask: np.where(np.arange(mask.shape[0])[:, None] > 20, LESION, mask), "would be painted"),
    ],
)
def test_what_cannot_become_a_canvas_says_why(change, words):
    mask = change(photo(3, 96)[1])
    assert words in why_unpaintable(mask, painted_region(mask), max_region=0.6, min_skin=0.02)


def test_a_usual_photo_can_become_a_canvas():
    mask = photo(3, 96)[1]
    assert why_unpaintable(mask, painted_region(mask), 0.6, 0.02) is None


def judged(painted_photo, before, mask, region):
    return triage.judged(triage.scores_of(before, painted_photo, region, mask), TriageSettings())


@pytest.mark.parametrize("tone", ["light", "medium", "dark"])
@pytest.mark.parametrize("share", [0.006, 0.05])
def test_the_classical_painter_passes_triage_and_the_untouched_photo_does_not(tone, share):
    before, mask = photo(4, 128, tone, lesion=share)
    region = painted_region(mask)
    painter = BiharmonicPainter()
    painted = painter.paint([before], [region], [mask == SKIN], [3])[0]
    good = judged(blend(before, painted, region), before, mask, region)
    assert good["verdict"] == "keep", good
    assert good["lesion_left"] < 0.2
    assert good["border_step"] < good["border_step_skin"] + 1
    bad = judged(before, before, mask, region)
    assert bad["verdict"] == "discard" and bad["lesion_left"] == 1
    assert any("lesion still there" in reason for reason in bad["reasons"])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda lab, rng: lab + (0, 0, -12), "tone"),
        (lambda lab, rng: gaussian_filter(lab, (6, 6, 0)), "texture"),
        (lambda lab, rng: lab + rng.normal(0, 6, lab.shape[:2])[..., None] * (1, 0, 0), "texture"),
        (
            lambda lab, rng: lab + np.where(np.arange(lab.shape[1]) % 16 < 4, 30, 0)[None, :, None] * (0, 1, 0),
            "artefacts",
        ),
        (lambda lab, rng: lab + (9, 0, 0), "step of"),
    ],
)
def test_each_fault_is_named(spoil, words):
    before, mask = photo(5, 128, "medium", lesion=0.04, marker=False)
    clean = BiharmonicPainter().paint([before], [painted_region(mask)], [mask == SKIN], [1])[0]
    region = np.where(painted_region(mask) > 128, 255, 0).astype(np.uint8)  # a hard edge, so that a step shows
    spoilt = to_uint8(lab_to_rgb(spoil(rgb_to_lab(clean), np.random.default_rng(0))))
    reasons = judged(blend(before, spoilt, region), before, mask, region)["reasons"]
    assert any(words in reason for reason in reasons), reasons


def test_a_large_region_is_painted_on_a_coarser_grid():
    before, mask = photo(6, 256, lesion=0.2, marker=False)
    region = painted_region(mask)
    painted = BiharmonicPainter().paint([before], [region], [mask == SKIN], [1])[0]
    scores = judged(blend(before, painted, region), before, mask, region)
    assert scores["lesion_left"] < 0.2 and scores["border_jump"] < 3, scores


def test_grain_without_a_large_enough_place_keeps_its_spread():
    rng = np.random.default_rng(0)
    fine = rng.normal(0, 3, (40, 40, 3))
    hole = np.ones((40, 40), bool)
    hole[:4] = False
    grain = grain_for(fine, hole, ~hole, rng)
    assert grain.shape == (hole.sum(), 3) and 2.5 < grain.std() < 3.5
