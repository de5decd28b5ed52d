"""The judges of samples on drawn skin: lesions of known size and colour, at several picture sizes."""

import itertools

import numpy as np
import pytest
from cgddi.core import judges
from cgddi.core.colour import fitted_cuts, lab_to_rgb, to_uint8, tone_of_angle
from cgddi.core.images import BACKGROUND, LESION, MARKER, RULER, SKIN, TONES
from PIL import Image
from scipy.ndimage import gaussian_filter

SKIN_LAB = (65.0, 12.0, 18.0)


def skin(size=256, seed=0, lab=SKIN_LAB):
    """Skin with mottling and a gradient of light, float CIELAB."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((size, size, 3)) + lab
    mottle = gaussian_filter(rng.standard_normal((size, size)), size / 60, mode="wrap")
    picture[..., 0] += 0.6 * mottle / mottle.std() + np.linspace(-3, 3, size)
    return picture


def spot(picture, radius, change, centre=(0.5, 0.45)):
    """With a round spot: radius and centre as shares of the side, change in CIELAB."""
    size = len(picture)
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    inside = np.hypot(x - centre[0], y - centre[1]) < radius
    return np.where(inside[..., None], picture + np.array(change), picture)


def rgb(lab):
    return to_uint8(lab_to_rgb(lab))


def presence(sample, canvas, part=None):
    part = np.ones(len(sample) * 2 and sample.shape[:2], bool) if part is None else part
    return judges.presence(judges.view(rgb(sample), part), judges.contrasts(judges.view(rgb(canvas), part)))


@pytest.mark.parametrize("radius", [0.04, 0.1, 0.2, 0.3])
def test_a_spot_is_seen_whatever_its_size_and_that_of_the_picture(radius):
    found = [presence(spot(skin(size, 1), radius, (-12, 4, -5)), skin(size, 2)) for size in (512, 256)]
    assert min(found) > 5
    assert max(found) - min(found) < 0.06 * max(found)


def test_plain_skin_shows_none_and_a_pale_spot_more_than_it():
    plain = [presence(skin(seed=seed), skin(seed=seed + 1)) for seed in range(4)]
    pale = [presence(spot(skin(seed=seed), 0.12, (4, 6, -4)), skin(seed=seed + 1)) for seed in range(4)]
    assert max(plain) < 2.5 < 4 < min(pale)


def test_what_the_canvas_shows_already_or_alone_is_no_lesion_of_the_sample():
    lesion, healthy = spot(skin(), 0.1, (-20, 0, 0)), skin(seed=3)
    assert presence(lesion, spot(healthy, 0.1, (-20, 0, 0))) < 3
    assert presence(healthy, lesion) < 2.5
    assert presence(lesion, healthy) > 10


def test_what_lies_where_the_canvas_shows_a_ruler_does_not_count():
    mask = np.full((256, 256), SKIN)
    mask[:, 200:] = RULER
    mask[:20] = BACKGROUND
    mask[100, 100] = LESION
    part = judges.usable(mask, mask.shape)
    assert part.sum() == 200 * 236
    sample = skin(256)
    sample[mask != SKIN] = (90, 0, 0)
    sample[100, 100] = SKIN_LAB
    assert presence(sample, skin(256, 1), part) < 2.5 < presence(sample, skin(256, 1))


def test_a_place_counts_where_three_fifths_of_it_can_be_used():
    """A strip of 6 of 64 px: places of 2 px lie in it to 87 %, those of 3.2 px to 65 %, larger ones to less than a half."""
    part = np.zeros((64, 64), bool)
    part[:, 29:35] = True
    striped = skin(64)
    striped[::2] += (20, 0, 0)
    striped[24:40] += (-20, 5, 0)
    found = np.abs(judges.contrasts(judges.view(rgb(striped), part))).max((1, 2, 3))
    assert (found[:2] > 3).all() and (found[2:] == 0).all(), found


def test_ink_and_what_is_near_it_is_left_out_of_a_photo():
    mask = np.full((80, 80), SKIN)
    mask[40, 40] = MARKER
    assert (~judges.bare(mask)).sum() == 13  # two steps around one pixel


def test_traits_react_to_what_they_are_named_for():
    part = np.ones((256, 256), bool)
    plain = judges.traits(rgb(skin(256)), part)
    for change, trait in (
        (spot(skin(256), 0.1, (0, 60, 40)), "saturation"),
        (spot(skin(256), 0.1, (30, 0, 0)), "brightness"),
        (spot(skin(256), 0.1, (-40, 0, 0)), "darkness"),
        (spot(skin(256), 0.1, (0, 0, -60)), "blueness"),
        (spot(skin(256), 0.1, (0, -40, 0)), "greenness"),
    ):
        found = judges.traits(rgb(change), part)
        assert found[trait] > plain[trait] + 20
        assert found["strip"] == plain["strip"] == 0
    banded = skin(256)
    banded[:, :64] += (30, 0, 0)
    assert judges.traits(rgb(banded), part)["strip"] == pytest.approx(0.25, abs=0.02)
    noisy = rgb(skin(256)).astype(float) + np.random.default_rng(0).normal(0, 6, (256, 256, 1))
    noisy = judges.traits(noisy.clip(0, 255).astype(np.uint8), part)
    assert noisy["texture"] > plain["texture"] + 1
    dotted = rgb(skin(256))
    dotted[::16, ::16] = 255
    assert judges.traits(dotted, part)["specks"] > plain["specks"] + 0.002


def test_a_copy_is_alike_also_as_its_mirror_image_and_in_another_size():
    photo = rgb(spot(skin(256, 1), 0.15, (-20, 5, 0), (0.3, 0.4)))
    other = rgb(spot(skin(256, 2), 0.15, (-20, 5, 0), (0.7, 0.8)))
    copies = [photo, photo[:, ::-1], np.asarray(Image.fromarray(photo).resize((512, 512)))]
    found = [judges.likeness(judges.thumbnail(copy), judges.thumbnail(photo)[None])[0] for copy in copies]
    assert min(found) > 0.995 and found[0] == pytest.approx(1)
    assert judges.likeness(judges.thumbnail(other), judges.thumbnail(photo)[None])[0] < 0.5


LIMITS = judges.Limits(
    5.0, {"light": (38, 60), "medium": (-2, 38), "dark": (-60, -2)}, {"strip": (0.1, 0.02)}, 3.0, 0.9
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"presence": 4.99}, "no lesion"),
        ({"angle": 38.1}, "tone"),
        ({"angle": -2.1}, "tone"),
        ({"traits": {"strip": 0.161}}, "artefacts"),
        ({"traits": {"strip": 0.039}}, "artefacts"),
        ({"likeness": 0.91}, "copy"),
    ],
)
def test_each_limit_at_its_value(change, reason):
    at_the_limit = {"presence": 5.0, "angle": -2, "traits": {"strip": 0.159}, "likeness": 0.9, "nearest": "p1"}
    found = judges.faults(judges.Scores(**{**at_the_limit, **change}), "medium", LIMITS)
    assert list(found) == ([reason] if reason else [])


def test_no_trait_known_is_no_fault():
    none = judges.Limits(5.0, LIMITS.angle, {}, 0.0, 1.01)
    assert not judges.faults(judges.Scores(9, 0, {"strip": 1.0}), "medium", none)


@pytest.mark.parametrize("seed", range(5))
def test_cuts_tell_tones_apart_as_well_as_the_best_of_all(seed):
    rng = np.random.default_rng(seed)
    tones = np.repeat(TONES, (9, 5, 14))
    angles = rng.normal(np.repeat((50, 30, 5), (9, 5, 14)), 14).round(1)

    def worth(first, second):
        told = np.array([tone_of_angle(angle, (first, second)) for angle in angles])
        return np.mean([(told[tones == tone] == tone).mean() for tone in TONES])

    best = max(worth(a, b) for a, b in itertools.product([*(angles + 0.01), angles.min() - 1], repeat=2) if a >= b)
    found = fitted_cuts(angles, tones)
    assert found[0] >= found[1] and worth(*found) == pytest.approx(best)


def test_cuts_stand_in_the_middle_of_a_gap():
    assert fitted_cuts([50, 40, 20, 10, -10], ["light", "light", "medium", "medium", "dark"]) == (30, 0)
