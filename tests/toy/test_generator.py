"""The procedural generator: skin tones, mask ids, disease boxes, and what the pretraining corpus must not hold."""

import subprocess
import sys

import numpy as np
import pytest
from cgddi.core.colour import lab_to_rgb, rgb_to_lab, skin_angle, tone_of_angle, typology_angle
from cgddi.core.images import BACKGROUND, LESION, MARKER, RULER, SKIN, TONES
from cgddi.toy.corpus import HEALTHY_PROMPT, NEGATIVE_PROMPT, build_corpus, draw_example, vocabulary
from cgddi.toy.diseases import ALL_DISEASES, BOUNDS, DISEASES, EXCLUDED_BOXES, EXTRA, Box, sample_broad
from cgddi.toy.scene import ITA_CUTS, ITA_RANGES, draw_skin_colour, render_photo


@pytest.mark.parametrize("tone", TONES)
def test_skin_is_drawn_inside_its_ita_range(tone):
    rng = np.random.default_rng(1)
    low, high = ITA_RANGES[tone]
    for _ in range(200):
        lab = draw_skin_colour(rng, tone)
        assert low <= typology_angle(lab) <= high
        assert (lab_to_rgb(lab) > 0).all() and (lab_to_rgb(lab) < 1).all(), "clipping would shift the tone"


@pytest.mark.parametrize("tone", TONES)
def test_rendered_skin_keeps_its_tone(tone):
    for index in range(40):
        rng = np.random.default_rng([2, index])
        disease = ALL_DISEASES[index % len(ALL_DISEASES)]
        photo = render_photo(
            rng, tone, disease.box.sample(rng), marker=index % 2 == 0, ruler=index % 3 == 0, cloth=index % 5 == 0
        )
        assert tone_of_angle(skin_angle(photo.image, photo.mask == SKIN), ITA_CUTS) == tone


def test_mask_ids_match_what_is_shown():
    rng = np.random.default_rng(3)
    plain = render_photo(rng, "light", None)
    assert plain.image.shape == (64, 64, 3) and plain.image.dtype == np.uint8
    assert plain.mask.dtype == np.int32 and set(np.unique(plain.mask)) == {SKIN}
    full = render_photo(rng, "medium", DISEASES[0].box.sample(rng), marker=True, ruler=True, cloth=True)
    assert set(np.unique(full.mask)) == {BACKGROUND, LESION, MARKER, RULER, SKIN}
    assert (BACKGROUND, LESION, MARKER, RULER, SKIN) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("disease", ALL_DISEASES, ids=lambda disease: disease.raw)
def test_every_disease_shows_a_lesion_that_differs_from_its_skin(disease):
    for tone in TONES:
        for index in range(6):
            rng = np.random.default_rng([4, index])
            photo = render_photo(rng, tone, disease.box.sample(rng), marker=True, ruler=True, cloth=True)
            lesion = photo.mask == LESION
            assert lesion.sum() >= 16, f"only {lesion.sum()} lesion pixels"
            lab = rgb_to_lab(photo.image)
            assert np.linalg.norm(np.median(lab[lesion], 0) - np.median(lab[photo.mask == SKIN], 0)) > 2.0


def test_rendering_is_deterministic():
    photos = [
        render_photo(np.random.default_rng(5), "dark", EXTRA.box.sample(np.random.default_rng(6)), marker=True)
        for _ in range(2)
    ]
    assert (photos[0].image == photos[1].image).all() and (photos[0].mask == photos[1].mask).all()


def test_names_are_unique_and_slugs_safe():
    assert len({disease.raw for disease in ALL_DISEASES}) == len(ALL_DISEASES)
    assert len({disease.concept for disease in DISEASES}) == 10
    assert all(set(disease.slug) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for disease in ALL_DISEASES)
    assert sum(disease.malignant for disease in {d.concept: d for d in DISEASES}.values()) == 5


def test_lookalike_pairs_share_colour_and_differ_elsewhere():
    blotches = ("blotch_lightness", "blotch_redness", "blotch_yellowness")
    groups: dict = {}
    for disease in DISEASES:
        groups.setdefault(tuple(disease.box.ranges[axis] for axis in blotches), []).append(disease)
    assert len(groups) == 5
    for group in groups.values():
        assert {disease.malignant for disease in group} == {True, False}
        benign = next(disease.box.ranges for disease in group if not disease.malignant)
        for ranges in (disease.box.ranges for disease in group if disease.malignant):
            for axis in ("lightness", "redness", "yellowness"):
                assert max(ranges[axis][0], benign[axis][0]) < min(ranges[axis][1], benign[axis][1])
            assert ranges["irregularity"][0] > benign["irregularity"][1]


def test_corpus_holds_no_toy_disease():
    rng = np.random.default_rng(7)
    for _ in range(3000):
        lesion = sample_broad(rng, EXCLUDED_BOXES)
        assert not any(box.contains(lesion) for box in EXCLUDED_BOXES)
        assert all(low <= lesion[name] <= high for name, (low, high) in BOUNDS.items())
    for index in range(100):
        _, lesion, _ = draw_example(np.random.default_rng([8, index]))
        assert lesion is None or not any(box.contains(lesion) for box in EXCLUDED_BOXES)


def test_exclusion_rejects_what_it_must():
    wide = Box({"radius": (4.5, 12.5)})
    for index in range(50):
        assert sample_broad(np.random.default_rng(index), (wide,), margin=0.0)["radius"] > 12.5
    for disease in ALL_DISEASES:
        assert disease.box.contains(disease.box.sample(np.random.default_rng(9)))


def test_box_rejects_unknown_axes_and_ranges():
    with pytest.raises(ValueError, match="unknown lesion axis"):
        Box({"colour": (0, 1)})
    with pytest.raises(ValueError, match="outside"):
        Box({"radius": (0, 5)})


def test_corpus_is_the_same_for_any_number_of_processes():
    one, two = build_corpus(300, 11), build_corpus(300, 11, processes=2)
    assert (one.images == two.images).all() and one.captions == two.captions
    assert len(one) == 300 and set(one.tones) == set(TONES)
    with pytest.raises(ValueError, match="at least one"):
        build_corpus(0, 1)


def test_captions_name_the_tone_and_all_clutter():
    words = set(vocabulary())
    for index in range(300):
        photo, _, text = draw_example(np.random.default_rng([12, index]))
        assert (
            ("ruler" in text) == photo.ruler and ("marker" in text) == photo.marker and ("cloth" in text) == photo.cloth
        )
        bare = text.lower().replace(",", " ").replace("-", " ")
        assert set(bare.split()) <= words, f"unknown word in {text!r}"
        if text.startswith("An image"):
            assert f"{photo.tone}-" in text
    assert {"skin", "lesion"} <= words
    for prompt in (HEALTHY_PROMPT, NEGATIVE_PROMPT):
        assert set(prompt.lower().replace(",", " ").replace("-", " ").split()) <= words


def test_generator_imports_without_torch():
    code = "import cgddi.toy.world, cgddi.toy.corpus, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
