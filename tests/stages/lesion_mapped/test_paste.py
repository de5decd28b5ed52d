"""A lesion cut out, scaled, turned and blended, beside closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.images import LESION, SKIN
from cgddi.core.membrane import Membrane
from cgddi.stages.lesion_mapped.blend import Blender
from cgddi.stages.lesion_mapped.donor import NoLesion, lesion_of
from cgddi.stages.lesion_mapped.lesion import cut_out, paste_weight
from cgddi.stages.lesion_mapped.settings import LesionMappedSettings
from scipy import ndimage

from tests.stages.lesion_mapped.world import photo


def test_all_parts_of_a_lesion_move_as_one():
    mask = np.full((20, 20), SKIN)
    mask[2:4, 2:4] = mask[10:15, 10:14] = LESION
    assert (lesion_of(mask) == (mask == LESION)).all()
    for whole in (SKIN, LESION):
        with pytest.raises(NoLesion):
            lesion_of(np.full((4, 4), whole))


@pytest.mark.parametrize(("scale", "rotation"), [(1.0, 90.0), (2.0, 0.0), (0.5, 30.0), (1.0, 37.0)])
def test_scale_and_rotation_turn_mask_and_photo_alike(scale, rotation):
    picture = np.full((80, 80, 3), 200, np.uint8)
    mask = np.full((80, 80), SKIN)
    bar = np.zeros((80, 80), bool)
    bar[36:44, 24:56] = True
    mask[bar], picture[bar] = LESION, (80, 30, 30)
    lesion = cut_out(picture, mask, LesionMappedSettings(), scale, rotation)
    assert lesion.shape.sum() == pytest.approx(bar.sum() * scale**2, rel=0.12)
    assert (lesion.pixels[ndimage.binary_erosion(lesion.shape)] == (80, 30, 30)).mean() > 0.9
    height, width = (side - 2 * lesion.margin for side in lesion.shape.shape)
    if rotation == 90:
        assert abs(height - 32) <= 1 and abs(width - 8) <= 1
    with pytest.raises(NoLesion, match="nothing of the lesion"):
        tiny = np.where(np.arange(6400).reshape(80, 80) == 3240, LESION, SKIN)
        tiny[40, 42] = LESION
        cut_out(picture, tiny, LesionMappedSettings(), 0.1, 45)


def test_a_lesion_turns_counter_clockwise_and_grows_about_its_centre():
    picture = np.full((81, 81, 3), 200, np.uint8)
    mask = np.full((81, 81), SKIN)
    mask[30:51, 30:37] = mask[44:51, 30:51] = LESION  # an L
    picture[30:51, 30:37], picture[44:51, 30:51] = (80, 30, 30), (30, 30, 90)
    crop = np.s_[30:51, 30:51]
    for scale, rotation in ((1.0, 90.0), (1.0, 180.0), (3.0, 0.0)):
        lesion = cut_out(picture, mask, LesionMappedSettings(), scale, rotation)
        inner = np.s_[lesion.margin : -lesion.margin, lesion.margin : -lesion.margin]
        expected = np.rot90((mask == LESION)[crop], round(rotation / 90))
        pixels = np.rot90(picture[crop], round(rotation / 90))
        if scale != 1:
            expected, pixels = expected.repeat(3, 0).repeat(3, 1), pixels.repeat(3, 0).repeat(3, 1)
        shape = lesion.shape[inner]
        assert np.abs(np.subtract(shape.shape, expected.shape)).max() <= 2
        height, width = np.minimum(shape.shape, expected.shape)
        assert (shape[:height, :width] == expected[:height, :width]).mean() > 0.93
        same = np.abs(lesion.pixels[inner][:height, :width].astype(int) - pixels[:height, :width]).max(-1) < 60
        assert same.mean() > 0.85


def test_poisson_meets_the_canvas_at_its_edge_and_keeps_the_lesions_gradients():
    flat = np.full((60, 60, 3), 100, np.uint8)
    picture, mask = photo(1, 60, "light", lesion=0.03, marker=False, ruler=False)
    lesion = cut_out(picture, mask, LesionMappedSettings())
    shifted = np.clip(picture.astype(int) - 25, 0, 255).astype(np.uint8)
    blender = Blender(lesion, "poisson", False)
    corner = tuple(int(axis.min()) for axis in np.nonzero(mask == LESION))
    result, result_mask = shifted.copy(), np.full((60, 60), SKIN, np.uint8)
    blender.paste(result, result_mask, corner)
    assert (
        np.abs(result.astype(int) - shifted).max() <= 1
    )  # its own place under another light: the shift is followed exactly
    blender.paste(flat, np.full((60, 60), SKIN, np.uint8), (0, 0))  # cut by the corner of the image
    assert flat.min() < 100
    noisy = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)
    result = noisy.copy()
    blender.paste(result, result_mask, corner)
    weight = paste_weight(mask == LESION, 2, 2.0)
    assert ((result != noisy).any(-1) == (weight >= 13))[
        5:-5, 5:-5
    ].mean() > 0.999  # 5% of the weight; a pixel may be met exactly


def test_a_membrane_is_harmonic_and_reproduces_a_plane():
    y, x = np.mgrid[:20, :24].astype(float)
    plane = np.stack([2 * x + y, 3 - x], -1)
    region = np.hypot(y - 10, x - 12) < 7
    assert np.allclose(Membrane(region)(plane), plane[region])
    with pytest.raises(ValueError, match="edge"):
        Membrane(np.ones((3, 3), bool))


def test_the_paste_weight_is_the_published_one():
    shape = np.zeros((40, 40), bool)
    shape[18:22, 18:22] = True
    grown = np.zeros((40, 40))
    grown[16:24, 16:24] = 255
    assert (paste_weight(shape, 2, 2.0) == np.rint(ndimage.gaussian_filter(grown, 2.0))).all()
