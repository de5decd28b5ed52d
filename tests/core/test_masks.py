"""Masks saved as JPEG: black and white come through compression, everything else is refused by name."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.errors import UserError
from cgddi.core.masks import mask_values, read_mask
from PIL import Image, ImageDraw, ImageFilter

SHAPES = {
    "two lesions, one small": ((200, 150), [(20, 30, 90, 88), (140, 100, 149, 110)]),
    "at the border": ((97, 203), [(-20, 150, 60, 230)]),
    "small picture": ((64, 64), [(20, 25, 44, 41)]),
    "large picture": ((1200, 900), [(300, 200, 700, 640)]),
}


def drawn(size, boxes, skin=0, spot=255):
    mask = Image.new("L", size, skin)
    for box in boxes:
        ImageDraw.Draw(mask).ellipse(box, fill=spot)
    return mask


@pytest.mark.parametrize("quality", [30, 75, 95])
@pytest.mark.parametrize("shape", SHAPES)
def test_what_was_drawn_comes_back_but_for_the_border(tmp_path, shape, quality):
    for inverted, mode in ((False, "L"), (True, "RGB")):
        skin, spot = (255, 0) if inverted else (0, 255)
        mask = drawn(*SHAPES[shape], skin, spot)
        mask.convert(mode).save(tmp_path / "m.jpg", quality=quality)
        found = read_mask(tmp_path / "m.jpg", {str(skin): 4, str(spot): 1})
        wrong = (found == 1) != (np.asarray(mask) == spot)
        grown, shrunk = (np.asarray(mask.filter(f(3))) for f in (ImageFilter.MaxFilter, ImageFilter.MinFilter))
        assert not (wrong & (grown == shrunk)).any(), "wrong at most beside the border"
        assert wrong.sum() <= 0.03 * (np.asarray(mask) == spot).sum() + 4
        assert {int(value) for value in np.unique(mask_values(tmp_path / "m.jpg")[0])} == {0, 255}


def test_a_mask_scaled_with_soft_borders_is_cut_in_the_middle_of_them(tmp_path):
    mask = drawn((800, 600), [(150, 100, 500, 420)])
    mask.resize((200, 150), Image.Resampling.BICUBIC).save(tmp_path / "m.jpeg", quality=60)
    area = (read_mask(tmp_path / "m.jpeg", {"0": 4, "255": 1}) == 1).sum()
    assert area == pytest.approx((np.asarray(mask) == 255).sum() / 16, rel=0.01)


def test_a_jpeg_mask_is_turned_as_viewers_show_it_and_may_name_colours(tmp_path):
    mask = drawn((80, 48), [(4, 6, 30, 20)])
    exif = Image.Exif()
    exif[0x0112] = 6
    mask.rotate(90, expand=True).save(tmp_path / "m.jpg", quality=90, exif=exif)
    found = read_mask(tmp_path / "m.jpg", {"#000000": 4, "#ffffff": 1})
    assert found.shape == (48, 80) and found[13, 17] == 1 and found[40, 70] == 4


def refused_of(kind):
    mask = drawn((200, 150), [(20, 30, 90, 88)])
    if kind == "a third class":
        ImageDraw.Draw(mask).ellipse((120, 100, 136, 114), fill=128)
    elif kind == "smooth":
        mask = mask.filter(ImageFilter.GaussianBlur(6))
    elif kind == "coloured":
        return drawn((200, 150), [(20, 30, 90, 88)]).convert("RGB").point([*range(256)] + [0] * 512)
    elif kind == "class ids":
        return Image.fromarray(np.where(np.asarray(mask) == 255, 1, 4).astype(np.uint8))
    elif kind == "a photo":
        noise = np.random.default_rng(0).integers(90, 170, (150, 200, 1)) + np.array([20, 0, -15])
        return Image.fromarray(noise.astype(np.uint8)).filter(ImageFilter.GaussianBlur(2))
    return mask


REFUSED = {
    "a third class": "a third class, a smooth mask or a photo. Save it again as PNG",
    "smooth": "neither black nor white",
    "coloured": "is a coloured JPEG",
    "class ids": "numbers of classes do not survive JPEG",
    "a photo": "coloured JPEG|neither black nor white",
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_jpeg_does_not_keep_is_refused_with_the_remedy(tmp_path, kind):
    refused_of(kind).save(tmp_path / "m.jpg", quality=85)
    with pytest.raises(UserError, match=REFUSED[kind]):
        read_mask(tmp_path / "m.jpg", {"0": 4, "255": 1})


def test_a_mask_without_lesion_is_black(tmp_path):
    Image.new("L", (40, 30)).save(tmp_path / "m.jpg")
    assert (read_mask(tmp_path / "m.jpg", {"0": 4, "255": 1}) == 4).all()
