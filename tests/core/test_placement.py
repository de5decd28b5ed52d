"""Placement against brute force, and the fairness of its draw."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.placement import allowed_positions, disc_runs, erode, pack, runs_of, unpack
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy.stats import chisquare


def brute_force(valid: np.ndarray, lesion: np.ndarray, padding: int) -> set[tuple[int, int]]:
    """Every translation, every lesion pixel, every pixel within `padding` of it: valid and inside the image?"""
    ys, xs = np.nonzero(lesion)
    ys, xs = ys - ys.min(), xs - xs.min()
    reach = range(-padding, padding + 1)
    near = [(dy, dx) for dy in reach for dx in reach if dy * dy + dx * dx <= padding * padding]
    height, width = valid.shape

    def inside(y: int, x: int) -> bool:
        return all(0 <= y + dy < height and 0 <= x + dx < width and valid[y + dy, x + dx] for dy, dx in near)

    good = {(y, x) for y in range(height) for x in range(width) if inside(y, x)}
    shape = list(zip(ys.tolist(), xs.tolist(), strict=True))
    return {
        (top, left)
        for top in range(-height, height)
        for left in range(-width, width)
        if all((top + y, left + x) in good for y, x in shape)
    }


sides = st.integers(1, 14)
masks = st.tuples(sides, sides).flatmap(lambda shape: arrays.arrays(bool, shape))
mostly_valid = st.tuples(st.integers(1, 22), st.integers(1, 22)).flatmap(
    lambda shape: arrays.arrays(np.uint8, shape, elements=st.integers(0, 30), fill=st.just(9)).map(lambda a: a > 0)
)


@settings(max_examples=150, deadline=None)
@given(valid=mostly_valid, lesion=masks.filter(np.any), padding=st.integers(0, 4))
def test_the_allowed_positions_are_those_of_brute_force(valid, lesion, padding):
    positions = allowed_positions(valid, runs_of(lesion), padding)
    expected = brute_force(valid, lesion, padding)
    found = {tuple(place) for place in positions.all().tolist()}
    assert found == expected
    assert len(positions) == len(expected)
    if expected:
        assert positions.draw(np.random.default_rng(0)) in expected


@settings(max_examples=60, deadline=None)
@given(mask=masks)
def test_packing_is_reversible(mask):
    assert (unpack(pack(mask), *mask.shape) == mask).all()


def test_a_lesion_with_a_hole_and_two_parts_moves_as_one():
    lesion = np.zeros((9, 12), bool)
    lesion[1:6, 1:6] = True
    lesion[3, 3] = False
    lesion[8, 10:12] = True
    valid = np.ones((30, 30), bool)
    valid[14, 14] = False  # a speck that the hole may hold
    found = {tuple(place) for place in allowed_positions(valid, runs_of(lesion), 0).all().tolist()}
    assert found == brute_force(valid, lesion, 0)
    assert (12, 12) in found  # the speck lies in the hole
    assert (11, 12) not in found


def test_every_position_is_drawn_equally_often():
    rng = np.random.default_rng(5)
    valid = rng.random((40, 70)) > 0.01
    positions = allowed_positions(valid, runs_of(np.ones((5, 4), bool)), 2)
    places = {tuple(place): 0 for place in positions.all().tolist()}
    assert 100 < len(places) < 2000
    for _ in range(60 * len(places)):
        places[positions.draw(rng)] += 1
    assert chisquare(list(places.values())).pvalue > 1e-4


def test_the_same_seed_draws_the_same_place():
    positions = allowed_positions(np.ones((64, 64), bool), runs_of(np.ones((3, 3), bool)), 10)
    assert len(positions) == (64 - 20 - 2) ** 2
    assert positions.draw(np.random.default_rng(3)) == positions.draw(np.random.default_rng(3))


def test_no_room_means_no_position():
    big = runs_of(np.ones((20, 20), bool))
    assert len(allowed_positions(np.ones((19, 40), bool), big, 0)) == 0
    assert len(allowed_positions(np.ones((40, 19), bool), big, 0)) == 0
    assert len(allowed_positions(np.zeros((40, 40), bool), big, 0)) == 0
    with pytest.raises(ValueError, match="no allowed position"):
        allowed_positions(np.zeros((40, 40), bool), big, 3).draw(np.random.default_rng(0))


def test_an_empty_shape_is_refused():
    with pytest.raises(ValueError, match="empty shape"):
        runs_of(np.zeros((4, 4), bool))


def test_the_disc_holds_the_pixels_within_its_radius():
    ones = np.ones((5, 5), bool)
    ones[0, 0] = False
    kept = unpack(erode(pack(ones), 5, 5, disc_runs(2)), 5, 5)
    assert kept[0, 0] and kept.sum() == 1  # the corner lies sqrt(8) > 2 from the centre
    ones[0, 2] = False
    assert erode(pack(ones), 5, 5, disc_runs(2)) == 0
