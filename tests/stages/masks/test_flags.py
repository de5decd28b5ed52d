"""Thresholds of the flags, and specks of automatic masks."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.images import LESION, MARKER, RULER, SKIN
from cgddi.stages.masks.flags import class_shares, despeckled, mask_flags
from cgddi.stages.masks.settings import FlagSettings


def skin(*boxes):
    mask = np.full((100, 100), SKIN, np.uint8)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = LESION
    return mask


@pytest.mark.parametrize(
    ("mask", "settings", "flags"),
    [
        (skin((10, 10, 5, 5)), {}, []),
        (skin((10, 10, 5, 5)), {"least_lesion": 0.0025}, ["no_lesion"]),
        (skin((10, 10, 5, 5)), {"least_lesion": 0.0024}, []),
        (skin((1, 1, 50, 98)), {}, []),
        (skin((1, 1, 52, 98)), {}, ["lesion_over_half"]),
        (skin((1, 1, 50, 98)), {"large_lesion": 0.4}, ["lesion_over_half"]),
        (skin((10, 10, 5, 5), (40, 40, 2, 2)), {}, ["several_parts"]),
        (skin((10, 10, 5, 5), (40, 40, 2, 2)), {"least_part": 0.0004}, []),
        (skin((10, 10, 5, 5), (15, 15, 2, 2)), {}, []),  # corners touch: one part
        (skin((2, 10, 5, 5)), {}, []),
        (skin((2, 10, 5, 5)), {"border": 3}, ["touches_border"]),
        (skin((10, 95, 5, 5)), {}, ["touches_border"]),
        (skin((0, 0, 100, 99)), {"least_skin": 0.01}, ["lesion_over_half", "touches_border", "no_skin"]),
        (skin((0, 0, 100, 100)), {}, ["lesion_over_half", "lesion_covers_image", "touches_border", "no_skin"]),
    ],
)
def test_thresholds(mask, settings, flags):
    assert mask_flags(mask, FlagSettings(**settings)) == flags


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


def test_shares_add_up():
    assert class_shares(skin((0, 0, 10, 10))) == [0, 0.01, 0, 0, 0.99]
