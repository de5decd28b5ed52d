"""The painted region, halos and blending."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.colour import lab_to_rgb, rgb_to_lab, to_uint8
from cgddi.core.images import BACKGROUND, LESION, MARKER, RULER, SKIN
from cgddi.core.membrane import blend, match_border
from cgddi.stages.healthy.region import halo, healthy_mask, painted_region, why_unpaintable
from hypothesis import given, settings
from hypothesis.extra import numpy as arrays
from scipy.ndimage import distance_transform_edt, gaussian_filter

from tests.core.procedural import hole, skin
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


def published_weight(mask, side=5, sigma=2.0):
    """The dilation by loops and the blur as a sum over a kernel truncated at four sigma, edges continued."""
    height, width = mask.shape
    half = side // 2
    grown = np.zeros(mask.shape)
    for y, x in np.argwhere((mask == LESION) | (mask == MARKER)):
        grown[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1] = 1
    reach = int(4 * sigma + 0.5)
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    wide = np.pad(grown, reach, mode="edge")
    rows = sum(k * wide[i : i + height] for i, k in enumerate(kernel))
    return sum(k * rows[:, i : i + width] for i, k in enumerate(kernel))


@pytest.mark.parametrize(("side", "sigma"), [(5, 2.0), (3, 1.0)])
def test_the_region_is_the_published_dilation_and_blur(side, sigma):
    mask = photo(3, 64, lesion=0.01)[1]
    mask[30:34, :2] = LESION  # at the image's edge
    weight = published_weight(mask, side, sigma)
    assert (painted_region(mask, side, sigma, full_cover=False) == np.rint(weight * 255)).all()
    target = (mask == LESION) | (mask == MARKER)
    extent = np.rint(weight * 255) > 0
    raised = np.where(extent & ~np.isin(mask, (BACKGROUND, RULER)), np.minimum(weight / weight[target].min(), 1), 0)
    assert (painted_region(mask, side, sigma) == np.rint(raised * 255)).all()
    assert not painted_region(np.full((9, 9), SKIN)).any()


def test_full_cover_leaves_nothing_of_lesion_and_marker():
    mask = photo(1, 128)[1]
    region = painted_region(mask)
    assert (region[(mask == LESION) | (mask == MARKER)] == 255).all()
    assert set(np.unique(healthy_mask(mask))) == set(np.unique(mask)) - {LESION, MARKER}


def test_blending_rounds_the_weighted_mean():
    rng = np.random.default_rng(0)
    before, painted = rng.integers(0, 256, (2, 40, 40, 3), np.uint8)
    region = rng.integers(0, 256, (40, 40), np.uint8)
    share = region[..., None] / 255
    assert np.abs(blend(before, painted, region) - ((1 - share) * before + share * painted)).max() <= 0.5 + 1e-9


def test_matching_the_border_adds_the_harmonic_surface_of_the_differences_around():
    picture, mask = photo(2, 32, lesion=0.05, ruler=False)
    region = painted_region(mask, 3, 1.0)
    painted = np.clip(picture.astype(int) + (12, -9, 5) + np.arange(32)[:, None, None] // 4, 0, 255).astype(np.uint8)
    inside = region > 0
    outside = (~inside).astype(float)
    smooth = gaussian_filter((picture.astype(float) - painted) * outside[..., None], (2, 2, 0))
    smooth /= np.maximum(gaussian_filter(outside, 2), 1e-6)[..., None]
    surface = np.where(inside[..., None], 0, smooth)
    for _ in range(4000):  # relaxation: every pixel becomes the mean of its neighbours within the image
        wide, count = np.pad(surface, ((1, 1), (1, 1), (0, 0))), np.pad(np.ones(inside.shape), 1)
        around = [np.s_[:-2, 1:-1], np.s_[2:, 1:-1], np.s_[1:-1, :-2], np.s_[1:-1, 2:]]
        mean = sum(wide[a] for a in around) / sum(count[a] for a in around)[..., None]
        surface = np.where(inside[..., None], mean, surface)
    expected = np.where(inside[..., None], painted + surface, painted)
    matched = match_border(picture, painted, region)
    assert np.abs(matched - expected.clip(0, 255)).max() <= 0.51
    assert np.abs(matched[inside].astype(int) - picture[inside]).mean() < 2
    assert np.abs(painted[inside].astype(int) - picture[inside]).mean() > 7


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
    assert words in why_unpaintable(mask, painted_region(mask))


def test_how_much_skin_and_how_large_a_region_at_their_limits():
    def photo_of(painted, skin):
        """A 100x100 mask whose lesion would be painted with so many rows, and so many pixels of skin left."""
        mask, region = np.full((100, 100), RULER), np.zeros((100, 100), np.uint8)
        mask[5, :50], region[:painted] = LESION, 9
        mask.reshape(-1)[-skin:] = SKIN
        return mask, region

    assert why_unpaintable(*photo_of(60, 200)) is None
    assert "too little skin to go on: 2.0%" in why_unpaintable(*photo_of(60, 199))
    assert "61% of the image would be painted" in why_unpaintable(*photo_of(61, 200))


def test_rulers_and_cloth_are_not_painted_over():
    mask = np.full((64, 64), SKIN)
    mask[20:40, 20:40], mask[:, 41:50], mask[:18] = LESION, RULER, BACKGROUND
    region = painted_region(mask)
    assert not region[(mask == RULER) | (mask == BACKGROUND)].any() and (region[mask == LESION] == 255).all()
    assert painted_region(mask, full_cover=False)[(mask == RULER)].any(), "as published"


@pytest.mark.parametrize("size", [128, 512])
def test_a_halo_and_a_shadow_are_found_at_any_size(size):
    photo, mask = skin(2, size, hairs=0), hole(2, size)
    scale, lesion = size / 512, mask == LESION
    distance = distance_transform_edt(~lesion)
    lab = rgb_to_lab(photo)
    assert (halo(photo, mask)).sum() < 0.2 * lesion.sum(), "plain skin has next to none"
    lab += np.where(lesion, 1, np.exp(-distance / (14 * scale)))[..., None] * (-3, 14, 2)  # redness that fades
    lab[lesion] += (-25, 5, 0)
    spoilt = to_uint8(lab_to_rgb(lab))
    found = halo(spoilt, mask)
    assert found[~lesion & (distance < 8 * scale)].mean() > 0.9
    assert (found & (distance > 40 * scale)).sum() < 0.05 * found.sum() and not found[lesion].any()
    with_it = painted_region(mask, 5, 2.0, True, found)
    assert (with_it[found] == 255).all() and (with_it >= painted_region(mask)).all()


def test_a_halo_leaves_hairs_strange_skin_and_other_classes_alone():
    photo, mask = skin(3, 256, hairs=0), hole(3, 256)
    lab = rgb_to_lab(photo)
    lab[mask == LESION] += (-30, 8, 0)
    _, columns = np.nonzero(mask == LESION)
    hair = np.s_[:, int(columns.mean())]
    lab[hair] -= (18, 0, 0)  # across the photo and the lesion
    mask[:, : columns.min() - 3] = RULER
    lab[:, : columns.min() - 3] = (90, 0, 0)
    found = halo(to_uint8(lab_to_rgb(lab)), mask)
    assert not found[mask == RULER].any()
    assert not (found & (distance_transform_edt(mask != LESION) > 10))[hair].any()
    assert not halo(photo, np.full_like(mask, SKIN)).any() and not halo(photo, np.full_like(mask, LESION)).any()


def reddened(radius, width, island=0):
    """A disc on skin, redness of one strength around it, and in that an island of plain skin; the halo found, distances, island."""
    y, x = np.mgrid[:256, :256] - 128
    lesion, plain = np.hypot(y, x) < radius, np.hypot(y, x - radius - width / 2) < island
    lab, distance = rgb_to_lab(skin(3, 256, hairs=0)), distance_transform_edt(np.hypot(y, x) >= radius)
    lab[(distance < width) & ~plain] += (-3, 12, 2)
    lab[lesion] += (-25, 5, 0)
    mask = np.where(lesion, LESION, SKIN).astype(np.uint8)
    return halo(to_uint8(lab_to_rgb(lab)), mask), distance, plain


def test_a_halo_has_no_holes_and_no_wider_reach_than_its_lesion_lets_expect():
    found, distance, island = reddened(30, 18, island=5)
    assert island.sum() > 60 and found[island].all() and found[(distance > 1) & (distance < 16)].mean() > 0.95
    found, distance, _ = reddened(6, 30)
    assert found[(distance > 1) & (distance < 7)].mean() > 0.9 and not found[distance > 1.4 * 6 + 1.5].any()


def test_the_fading_part_of_a_halo_is_left_where_too_much_would_be_painted():
    """Discs whose redness fades alike; with its fading part the larger one would take more than 45 % of the photo."""
    widths = []
    for radius in (80, 88):
        y, x = np.mgrid[:256, :256] - 128
        lesion = np.hypot(y, x) < radius
        lab = rgb_to_lab(skin(3, 256, hairs=0))
        lab += np.where(lesion, 1, np.exp(-distance_transform_edt(~lesion) / 7))[..., None] * (-3, 12, 2)
        lab[lesion] += (-25, 5, 0)
        found = halo(to_uint8(lab_to_rgb(lab)), np.where(lesion, LESION, SKIN).astype(np.uint8))
        assert (found | lesion).mean() <= 0.45
        widths.append(np.sqrt((found | lesion).sum() / np.pi) - radius)
    assert widths[1] < 0.8 * widths[0]


def haloed(radius, redness, side=256, stripes=0):
    """The halo found around a disc on skin of one colour, and the distances from the disc: redness (CIE76) by distance and by
    the angle's sine and cosine; near the disc stripes of skin lie so far (CIE76) to both sides of the skin's colour."""
    y, x = np.mgrid[:side, :side] - side // 2
    lesion = np.hypot(y, x) < radius
    distance = distance_transform_edt(~lesion)
    lab = np.zeros((side, side, 3)) + (65, 14, 18)
    lab[..., 1] += stripes * np.where(x // 16 % 2, 1, -1) * (distance < 60)
    lab[..., 2] += np.where(lesion, 0, redness(distance, y, x))
    lab[lesion] += (-25, 5, 0)
    return halo(to_uint8(lab_to_rgb(lab)), np.where(lesion, LESION, SKIN).astype(np.uint8)), distance


def test_a_halo_is_what_a_person_can_see_and_what_fades_beside_that():
    """What lies 3.5 from the skin is seen; beside that and the lesion, for 16 px at 512, what lies at 65 % of it belongs to it."""
    found, distance = haloed(30, lambda d, *_: 3 * (d < 12))
    assert found[(distance > 0) & (distance < 7)].all() and not found[distance > 9].any()
    found, distance = haloed(30, lambda d, *_: 4.2 * (d < 12))
    assert found[(distance > 0) & (distance < 11)].all() and not found[distance > 13].any()
    for strength, reach in ((2.8, 14), (1.6, 7)):
        found, distance = haloed(30, lambda d, *_, s=strength: np.select([d < 6, d < 24], [7, s], 0))
        assert found[(distance > 0) & (distance < reach - 1)].all() and not found[distance > reach + 2].any()


def test_on_skin_that_varies_a_halo_differs_by_more_than_that_does_around():
    """Skin near the disc lies 2.5 from its mean, all further off at it: a halo lies 2.4 times as far as that near the disc."""
    found, distance = haloed(14, lambda d, *_: 4.2 * (d < 18), stripes=2.5)
    assert found[distance > 10].mean() < 0.001
    found, distance = haloed(14, lambda d, *_: 9 * (d < 18), stripes=2.5)
    assert found[(distance > 0) & (distance < 16)].mean() > 0.9


def test_a_halo_reaches_sixty_px_of_512_at_most():
    found, distance = haloed(30, lambda d, *_: 12 * (d < 45))
    assert found[(distance > 0) & (distance < 29)].all() and not found[distance > 31].any()


@pytest.mark.parametrize(("width", "found"), [(3, False), (9, True)])
def test_what_is_narrower_than_eight_px_of_512_is_a_hair(width, found):
    strand, distance = haloed(30, lambda d, y, x: 8 * ((abs(y) <= width // 2) & (x > 0)))
    assert (strand & (distance > 12)).any() == found
