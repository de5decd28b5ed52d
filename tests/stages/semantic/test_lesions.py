"""The benchmark that measures lesions in samples and photos, on shapes of known size and outline."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.archive import ArchiveWriter
from cgddi.core.images import LESION, SKIN, encode_png

from benchmarks import lesions
from tests.core.test_judges import rgb, skin

Y, X = np.mgrid[:64, :64] - 31.5
COLOUR = np.array([-14.0, 6.0, -4.0])


def ellipse(wide: float, high: float) -> np.ndarray:
    return (X / wide) ** 2 + (Y / high) ** 2 <= 1


def picture(region: np.ndarray, seed: int = 0) -> np.ndarray:
    return rgb(skin(64, seed, (60, 10, 16)) + region[..., None] * COLOUR)


@pytest.mark.parametrize(("wide", "high"), [(9, 9), (14, 7), (18, 6)])
def test_a_lesion_is_found_with_its_area_outline_and_colour(wide, high):
    circumference = np.pi * (3 * (wide + high) - np.sqrt((3 * wide + high) * (wide + 3 * high)))  # Ramanujan, 1914
    outline = circumference**2 / (4 * np.pi * np.pi * wide * high)
    true = ellipse(wide, high)
    region, colour = lesions.find(picture(true), np.ones((64, 64), bool))
    assert (region & true).sum() / (region | true).sum() > 0.9
    assert lesions.outline(true) == pytest.approx(outline, abs=0.07)
    assert lesions.outline(region) == pytest.approx(outline, abs=0.09)
    assert colour == pytest.approx(COLOUR, abs=1.5)


def test_samples_of_half_the_width_have_a_quarter_of_the_area(tmp_path):
    mask = np.full((64, 64), SKIN, np.uint8)
    mask[ellipse(12, 12)] = LESION
    (tmp_path / "masks/toy").mkdir(parents=True)
    (tmp_path / "semantic/main/toy").mkdir(parents=True)
    with ArchiveWriter(tmp_path / "masks/toy/mole.000.tar", {}) as photos:
        for number in range(3):
            png = encode_png(picture(ellipse(12, 12), number))
            photos.add(f"p{number}", {"png": png, "mask.png": encode_png(mask)}, {"image_id": f"p{number}"})
    with ArchiveWriter(tmp_path / "semantic/main/toy/mole.tar", {}) as samples:
        for number, (size, used) in enumerate([(6, True), (6, True), (20, False), (20, False), (20, False)]):
            row = {"canvas": "p0", "used": used}
            samples.add(f"s{number}", {"png": encode_png(picture(ellipse(size, size), number))}, row)
    found = lesions.compared(tmp_path)["mole"]
    assert found["area"] == pytest.approx(0.25, rel=0.15) and found["outline"] == pytest.approx(1, abs=0.1)
    assert found["sample"] == pytest.approx(COLOUR, abs=1.5) and found["photo"] == pytest.approx(COLOUR, abs=1.5)
