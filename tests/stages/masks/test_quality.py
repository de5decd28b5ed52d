"""Flags of a mask, specks of automatic ones, and whether a mask belongs to its photo."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.images import LESION, MARKER, RULER, SKIN
from cgddi.stages.masks.quality import class_shares, despeckled, explained_variance, mask_flags, swapped


def skin(*boxes):
    mask = np.full((100, 100), SKIN, np.uint8)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = LESION
    return mask


@pytest.mark.parametrize(
    ("mask", "flags"),
    [
        (skin((10, 10, 5, 5)), []),
        (skin(), ["no_lesion"]),
        (skin((1, 1, 50, 100 - 2)), []),
        (skin((1, 1, 51, 98)), []),  # 0.4998
        (skin((1, 1, 52, 97)), ["lesion_over_half"]),  # 0.5044
        (skin((10, 10, 5, 5), (40, 40, 1, 1)), ["several_parts"]),
        (skin((10, 10, 5, 5), (15, 15, 2, 2)), []),  # corners touch: one part
        (skin((1, 10, 5, 5)), []),
        (skin((0, 10, 5, 5)), ["touches_border"]),
        (skin((10, 95, 5, 5)), ["touches_border"]),
        (skin((0, 0, 100, 100)), ["lesion_over_half", "lesion_covers_image", "touches_border", "no_skin"]),
    ],
)
def test_flags(mask, flags):
    assert mask_flags(mask) == flags


def test_specks_go_to_what_is_around_them():
    mask = skin((10, 10, 5, 5), (50, 50, 3, 3))
    mask[80:90, :60] = RULER
    mask[84, 30] = LESION  # on the ruler
    mask[20:22, 70:72] = MARKER
    clean = despeckled(mask, 0.001)
    assert (clean[10:15, 10:15] == LESION).all() and (clean == LESION).sum() == 25
    assert clean[84, 30] == RULER and (clean[20:22, 70:72] == SKIN).all() and (clean[50:53, 50:53] == SKIN).all()
    assert despeckled(mask, 0) is mask
    alone = np.full((10, 10), LESION, np.uint8)
    assert (despeckled(alone, 0.09) == LESION).all()
    assert despeckled(mask) is mask  # 10,000 pixels: only parts below one
    large = np.kron(mask, np.ones((6, 6), np.uint8))
    small = large.copy()
    small[300:306, 300:306] = MARKER  # 36 of 360,000 pixels: not below the share
    small[400, 400:435] = MARKER  # 35
    assert (despeckled(small) != small).sum() == 35 and (despeckled(small)[400] == SKIN).all()


def test_shares_add_up():
    assert class_shares(skin((0, 0, 10, 10))) == [0, 0.01, 0, 0, 0.99]


def test_the_variance_that_a_mask_explains_is_eta_squared():
    rng = np.random.default_rng(3)
    mask = rng.integers(0, 5, (30, 40)).astype(np.uint8)
    picture = (mask[..., None] * 20 + rng.integers(0, 90, (30, 40, 3))).astype(np.uint8)
    grand = picture.reshape(-1, 3).mean(0)
    between = sum((mask == c).sum() * ((picture[mask == c].mean(0) - grand) ** 2).sum() for c in range(5))
    assert explained_variance(picture, mask) == pytest.approx(between / ((picture - grand) ** 2).sum())
    assert explained_variance(np.full((4, 4, 3), 7, np.uint8), mask[:4, :4]) == 0


def test_masks_change_places_only_where_every_photo_of_the_circle_gains_more_than_the_margin():
    def striped(share, contrast):
        """A photo whose left part stands out, and its mask."""
        mask = np.where(np.arange(40) < 40 * share, LESION, SKIN).astype(np.uint8) + np.zeros((40, 1), np.uint8)
        noise = np.random.default_rng(int(share * 100)).normal(0, 30, (40, 40, 3))
        return (128 + contrast * (mask == LESION)[..., None] + noise).clip(0, 255).astype(np.uint8), mask

    photos, masks = zip(*(striped(share, 60) for share in (0.2, 0.5, 0.8)), strict=True)
    assert swapped(photos, masks) == {}
    assert swapped(photos, [masks[1], masks[0], masks[2]]) == {0: 1, 1: 0}
    assert swapped(photos, [masks[1], masks[2], masks[0]]) == {0: 2, 1: 0, 2: 1}
    fit = [[explained_variance(p, m) for m in masks] for p in photos]
    least = min(fit[0][0] - fit[0][1], fit[1][1] - fit[1][0])
    assert swapped(photos, [masks[1], masks[0], masks[2]], least + 0.001) == {}
    assert swapped(photos, [masks[1], masks[0], masks[2]], least - 0.001) == {0: 1, 1: 0}
