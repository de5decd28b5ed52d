"""CIELAB and the typology angle beside scikit-image and the published formulas."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.colour import delta_e, lab_to_rgb, rgb_to_lab, skin_angle, to_uint8, tone_of_angle, typology_angle
from skimage.color import deltaE_cie76, lab2rgb, rgb2lab

LEVELS = np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8)


def test_colours_agree_with_scikit_image_and_turn_back():
    lab = rgb_to_lab(LEVELS)
    assert np.abs(lab - rgb2lab(LEVELS)).max() < 0.005  # scikit-image rounds its matrix to six digits
    assert np.abs(lab_to_rgb(lab) - lab2rgb(rgb2lab(LEVELS))).max() < 1e-4
    assert (to_uint8(lab_to_rgb(lab)) == LEVELS).all()
    assert np.allclose(delta_e(lab[1:], lab[:-1]), deltaE_cie76(lab[1:], lab[:-1]))


def test_every_grey_is_neutral_and_black_and_white_are_the_ends():
    lab = rgb_to_lab(np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, 1))
    assert np.abs(lab[:, 1:]).max() < 0.01 and (np.diff(lab[:, 0]) > 0).all()
    assert lab[0, 0] == pytest.approx(0, abs=1e-9) and lab[-1, 0] == pytest.approx(100, abs=1e-6)


def test_colours_outside_the_gamut_are_clipped():
    rgb = lab_to_rgb(np.array([[50.0, 120, -120], [120, 0, 0], [-5, 0, 0]]))
    assert rgb.min() >= 0 and rgb.max() <= 1 and (to_uint8(np.array([-0.5, 0.5, 1.5])) == [0, 128, 255]).all()


def test_the_typology_angle_is_the_published_one_where_skin_is_yellow():
    lab = np.stack([np.linspace(20, 90, 200), np.full(200, 9.0), np.linspace(4, 25, 200)], -1)
    assert np.allclose(typology_angle(lab), np.degrees(np.arctan((lab[:, 0] - 50) / lab[:, 2])))
    assert typology_angle(np.array([70.0, 5, -20])) == pytest.approx(135)  # bluish: beyond the perpendicular


def test_the_angle_of_skin_is_the_median_over_its_pixels():
    skin = np.random.default_rng(1).random(LEVELS.shape[:2]) < 0.3
    lab = rgb2lab(LEVELS)[skin]
    assert skin_angle(LEVELS, skin) == pytest.approx(
        np.median(np.degrees(np.arctan2(lab[:, 0] - 50, lab[:, 2]))), abs=0.05
    )
    assert skin_angle(LEVELS, np.zeros_like(skin)) == skin_angle(LEVELS)


@pytest.mark.parametrize(
    ("angle", "tone"), [(41.1, "light"), (41, "medium"), (10.1, "medium"), (10, "dark"), (-60, "dark")]
)
def test_a_cut_belongs_to_the_darker_side(angle, tone):
    assert tone_of_angle(angle, (41, 10)) == tone
