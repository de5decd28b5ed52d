"""Photos and masks to working size and back, and png bytes that others read."""

from __future__ import annotations

import io

import numpy as np
import pytest
from cgddi.core.images import (
    CLASSES,
    TONE_CODES,
    centre_square,
    decode_png,
    encode_png,
    mask_to_size,
    photo_to_size,
    read_photo,
    same_shape,
    to_photo,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image


def facts(width, height, crop):
    return {"width": width, "height": height, "crop": crop}


@settings(max_examples=150, deadline=None)
@given(
    st.integers(8, 40),
    st.integers(0, 60),
    st.integers(0, 60),
    st.sampled_from(["resize", "square"]),
    st.integers(0, 2**32 - 1),
)
def test_back_and_forth_is_the_same_mask(size, wider, higher, crop, seed):
    mask = np.random.default_rng(seed).integers(0, 5, (size, size), np.uint8)
    width, height = size + wider, size + higher
    whole = to_photo(mask, facts(width, height, crop))
    assert whole.shape == (height, width) and whole.dtype == np.uint8
    assert (mask_to_size(whole, (width, height), size, crop) == mask).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 40), st.integers(3, 90), st.integers(3, 90), st.integers(0, 2**32 - 1))
def test_outside_the_square_is_background(size, width, height, seed):
    mask = np.random.default_rng(seed).integers(1, 5, (size, size), np.uint8)
    whole = to_photo(mask, facts(width, height, "square"))
    left, upper, right, lower = centre_square(width, height)
    inside = np.zeros((height, width), bool)
    inside[upper:lower, left:right] = True
    assert ((whole > 0) == inside).all()
    assert set(np.unique(whole)) <= {0, *np.unique(mask)}


@pytest.mark.parametrize("crop", ["resize", "square"])
def test_a_place_in_the_photo_keeps_its_place(crop):
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 0, 255], [255, 255, 255], [255, 204, 153]], np.uint8)
    mask = np.kron(np.random.default_rng(1).integers(1, 5, (8, 8)), np.ones((8, 8), int)).astype(np.uint8)
    whole = to_photo(mask, facts(192, 128, crop))
    again = photo_to_size(Image.fromarray(colours[whole]), 64, crop)
    assert (np.abs(again.astype(int) - colours[mask]).max(-1) < 60).mean() > 0.7  # all but the edges of the tiles


def test_classes_and_tones_are_those_of_the_published_data():
    assert CLASSES == {"background": 0, "lesion": 1, "marker": 2, "ruler": 3, "skin": 4}  # sDDI
    assert TONE_CODES == {"light": "12", "medium": "34", "dark": "56"}  # DDI


def test_what_shines_through_is_white(tmp_path):
    photo = Image.new("RGBA", (8, 8), (100, 40, 20, 128))
    photo.save(tmp_path / "p.png")
    pixels, notes = read_photo(tmp_path / "p.png")
    expected = np.array([100, 40, 20]) * 128 / 255 + 255 * 127 / 255
    assert np.abs(np.asarray(pixels)[0, 0] - expected).max() <= 1 and notes == ["converted_from_RGBA"]


def test_a_photo_is_resampled_by_lanczos_whole_or_from_its_central_square():
    photo = Image.fromarray(np.random.default_rng(4).integers(0, 256, (60, 91, 3), np.uint8))
    whole = photo.resize((24, 24), Image.Resampling.LANCZOS)
    square = photo.crop((15, 0, 75, 60)).resize((24, 24), Image.Resampling.LANCZOS)
    assert (photo_to_size(photo, 24, "resize") == np.asarray(whole)).all()
    difference = np.abs(photo_to_size(photo, 24, "square").astype(int) - np.asarray(square))
    assert difference[2:-2, 2:-2].max() <= 1  # at the square's edge Pillow also sees the pixels beyond


@pytest.mark.parametrize(
    ("size", "fits"), [((1000, 971), True), ((972, 1000), True), ((1000, 960), False), ((965, 1000), False)]
)
def test_a_mask_belongs_where_the_shape_differs_by_three_percent_at_most(size, fits):
    assert same_shape((1000, 1000), size) == fits


def test_the_encoder_is_lossless_and_read_by_others():
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (33, 47, 3), np.uint8), rng.integers(0, 5, (20, 31), np.uint8)]
    for array in (*arrays, np.zeros((1, 1), np.uint8), arrays[0][::2, ::-1]):
        data = encode_png(array)
        with Image.open(io.BytesIO(data)) as picture:
            picture.verify()
        assert (decode_png(data) == array).all() and decode_png(data).shape == array.shape
        assert decode_png(data).flags.writeable


def test_pictures_shrink_smoothly_and_masks_keep_their_classes():
    rng = np.random.default_rng(2)
    photo, mask = rng.integers(0, 256, (40, 40, 3), np.uint8), rng.integers(0, 5, (40, 40), np.uint8)
    small = decode_png(encode_png(photo), 20)
    assert (small == np.asarray(Image.fromarray(photo).resize((20, 20), Image.Resampling.LANCZOS))).all()
    assert (decode_png(encode_png(mask), 20) == mask[1::2, 1::2]).all()
    assert (decode_png(encode_png(photo), 40) == photo).all()
