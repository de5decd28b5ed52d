"""Near-duplicates: copies are found whatever was done to them, and different photos are left apart."""

import io
from dataclasses import replace

import numpy as np
import pytest
from cgddi.core.errors import UserError
from cgddi.ingest.duplicates import Fingerprint, duplicate_sets, fingerprint, fingerprints
from PIL import Image


def scene(seed, size=(160, 120)):
    """A smooth picture: a skin-like ground with a few soft spots."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(0, 1, size[0]), np.linspace(0, 1, size[1]))
    picture = np.full((size[1], size[0], 3), (200, 150, 130), float)
    for _ in range(6):
        cx, cy, radius, depth = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.05, 0.3), rng.uniform(-120, 60)
        spot = np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / radius**2)
        picture += depth * spot[..., None] * rng.uniform(0.7, 1, 3)
    return Image.fromarray((picture + rng.normal(0, 2, picture.shape)).clip(0, 255).astype(np.uint8))


def recompressed(picture):
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=40)
    return Image.open(buffer).convert("RGB")


CHANGES = {
    "resized": lambda picture: picture.resize((90, 67)),
    "recompressed": recompressed,
    "brighter": lambda picture: picture.point(lambda v: min(255, int(v * 1.1))),
    "grey": lambda picture: picture.convert("L").convert("RGB"),
}


def prints_of(folder, pictures):
    paths = []
    for i, picture in enumerate(pictures):
        paths.append(str(folder / f"{i}.png"))
        picture.save(paths[-1])
    return fingerprints(paths, threads=2)


@pytest.mark.parametrize("change", CHANGES)
def test_changed_copies_are_found(tmp_path, change):
    pictures = [scene(1), scene(2), CHANGES[change](scene(1)), scene(3)]
    assert duplicate_sets(prints_of(tmp_path, pictures)) == [[0, 2]]


def test_forty_different_scenes_are_apart(tmp_path):
    assert duplicate_sets(prints_of(tmp_path, [scene(seed) for seed in range(40)])) == []


def test_plain_pictures_are_not_alike_unless_they_are_copies(tmp_path):
    plain = [Image.new("RGB", (32, 32), colour) for colour in ("red", "tan", "red")]
    assert duplicate_sets(prints_of(tmp_path, plain)) == [[0, 2]]


def test_exact_copies_only(tmp_path):
    prints = prints_of(tmp_path, [scene(1), scene(1), recompressed(scene(1))])
    assert duplicate_sets(prints, near=-1) == [[0, 1]]
    assert duplicate_sets(prints) == [[0, 1, 2]]


def test_sameness_is_carried_on_and_sets_are_in_order(tmp_path):
    pictures = [scene(9), scene(1), scene(9), scene(1), scene(9)]
    assert duplicate_sets(prints_of(tmp_path, pictures)) == [[0, 2, 4], [1, 3]]


def test_two_photos_that_are_each_like_a_third_are_one_set():
    alike = np.eye(256)[0]
    prints = [Fingerprint(str(bits), bits, alike) for bits in (0b000111, 0b111000, 0, 0b111111 << 30)]
    assert duplicate_sets(prints) == [[0, 1, 2]]  # the first two differ in six bits


def test_an_unreadable_photo_is_returned_as_its_error(tmp_path):
    (tmp_path / "bad.png").write_text("x")
    (error,) = fingerprints([str(tmp_path / "bad.png")])
    assert isinstance(error, UserError) and "bad.png" in str(error)


@pytest.mark.parametrize(
    ("bits", "correlation", "near", "same"),
    [
        (4, 0.98, None, True),
        (5, 0.98, None, False),
        (5, 0.98, 5, True),
        (0, 0.971, None, True),
        (0, 0.969, None, False),  # smooth skin may agree in its hash by chance
        (0, 1.0, -1, False),
    ],
)
def test_near_duplicates_agree_in_hash_and_thumbnail(bits, correlation, near, same):
    one, other = np.eye(256)[0], np.eye(256)[1]
    prints = [
        Fingerprint("a", 0b1011 << 40, one),
        Fingerprint("b", (0b1011 << 40) ^ ((1 << bits) - 1), correlation * one + np.sqrt(1 - correlation**2) * other),
    ]
    assert duplicate_sets(prints, **({} if near is None else {"near": near})) == ([[0, 1]] if same else [])


def test_no_photos():
    assert duplicate_sets([]) == []


def test_many_photos_cross_block_borders(tmp_path):
    scene(1).save(tmp_path / "a.png")
    one = fingerprint(str(tmp_path / "a.png"))
    rng = np.random.default_rng(0)
    others = []
    for i in range(1200):
        thumbnail = rng.normal(size=256)
        others.append(type(one)(f"{i}", int(rng.integers(0, 2**63)), thumbnail / np.linalg.norm(thumbnail)))
    scene(2).save(tmp_path / "b.png")
    two = fingerprint(str(tmp_path / "b.png"))
    others[5] = one
    others[1100] = replace(one, sha256="recompressed")
    others[600] = two
    others[1150] = replace(two, sha256="also recompressed")
    assert duplicate_sets(others) == [[5, 1100], [600, 1150]]
