"""Triage scores beside a plain second writing of their definitions, and each threshold at its value."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.colour import lab_to_rgb, rgb_to_lab, to_uint8
from cgddi.core.images import BACKGROUND, LESION, MARKER, RULER, SKIN
from cgddi.core.triage import judge, scores_of, texture, turn
from cgddi.stages.canvases.settings import TriageSettings
from cgddi.stages.healthy.region import painted_region
from scipy.ndimage import distance_transform_edt, gaussian_filter
from skimage.color import rgb2lab

from tests.core.procedural import hole, skin
from tests.stages.lesion_mapped.world import FAULTLESS, photo


def plane(values, pixels, size):
    """The plane through some pixels' values, fitted by `numpy.polyfit`'s normal equations, thrice to the nearest 70 % of them."""
    height, width = size
    chosen = np.array(pixels)
    y, x = 2 * chosen[:, 0] / (height - 1) - 1, 2 * chosen[:, 1] / (width - 1) - 1
    terms, target = (
        np.stack([np.ones_like(x), x - x.mean(), y - y.mean()], 1),
        np.array([values[tuple(p)] for p in chosen]),
    )
    near = np.ones(len(chosen), bool)
    for _ in range(4):
        stiff = np.diag([0, 0.01, 0.01]) * near.sum()
        fit = np.linalg.solve(terms[near].T @ terms[near] + stiff, terms[near].T @ target[near])
        off = ((target - terms @ fit) ** 2).sum(1)
        near = off <= np.quantile(off, 0.7)
    rows, columns = np.linspace(-1, 1, height)[:, None, None], np.linspace(-1, 1, width)[None, :, None]
    return fit[0] + fit[1] * (columns - x.mean()) + fit[2] * (rows - y.mean())


def mean_of(values, part, sigma):
    share = np.maximum(gaussian_filter(part * 1.0, sigma), 1e-6)
    return np.stack([gaussian_filter(values[..., c] * part, sigma) / share for c in range(values.shape[-1])], -1)


def by_hand(before, after, region, mask):
    """The scores by loops over pixels; colours by scikit-image."""
    scale = max(mask.shape) / 512
    reach = max(6, 48 * scale)
    if ((distance_transform_edt(region == 0) <= reach) & (mask == SKIN) & (region == 0)).sum() >= 30:
        low, high = np.argwhere(region > 0).min(0), np.argwhere(region > 0).max(0) + 1
        window = tuple(slice(max(0, a - int(2 * reach)), b + int(2 * reach)) for a, b in zip(low, high, strict=True))
        before, after, region, mask = before[window], after[window], region[window], mask[window]
    old, new = rgb2lab(before), rgb2lab(after)
    height, width = mask.shape
    painted = np.argwhere(region > 0)
    untouched = [(y, x) for y in range(height) for x in range(width) if mask[y, x] == SKIN and region[y, x] == 0]
    ring = [p for p in untouched if np.sqrt(((painted - p) ** 2).sum(1)).min() <= reach]
    ring = ring if len(ring) >= 30 else untouched
    inside = [(y, x) for y in range(height) for x in range(width) if region[y, x] >= 128]
    core = np.argwhere(mask == (LESION if (mask == LESION).any() else MARKER))
    skin, shown = plane(new, ring, mask.shape), (mask == SKIN) | (region > 0)

    def median(values, pixels):
        return np.median([values[tuple(p)] for p in pixels], axis=0)

    place, lesion = median(new - skin, core), median(old - skin, core)
    far = np.linalg.norm(new - skin, axis=-1)
    local = np.linalg.norm(mean_of(new, shown, max(0.7, 3 * scale)) - skin, axis=-1)
    texture = {}
    for size in (1, 2, 4, 8, 16):
        if size * scale / 2 >= 0.45:
            fine, coarse = (mean_of(new[..., :1], shown, s * scale)[..., 0] for s in (size / 2, size))
            spread = np.sqrt(mean_of((fine - coarse)[..., None] ** 2, shown, size * scale)[..., 0])
            logs = [np.mean([np.log(spread[p] + 0.02) for p in part]) for part in (inside, ring)]
            texture[size] = np.exp(logs[0] - logs[1])
    judged = [texture[size] for size in (1, 2, 4, 8) if size in texture]

    def ita(lab):
        return np.degrees(np.arctan2(lab[0] - 50, lab[2]))

    tone, usual = median(new, inside), median(skin, inside)
    turned, shown_by = abs(ita(tone) - ita(usual)), np.hypot(tone[0] - usual[0], tone[2] - usual[2])
    apart = max(1, round(scale))
    within, around = set(inside), set(ring)
    across, plain, edge, moved = [], [], set(), []
    sigma = max(0.7, 3 * scale)
    halves = [np.array(region >= 128), (region < 128) & (mask == SKIN)]
    sides = [mean_of(new, half, sigma) for half in halves]
    for y in range(height):
        for x in range(width):
            for two in ((y + apart, x), (y, x + apart)):
                if two[0] >= height or two[1] >= width:
                    continue
                step = np.linalg.norm(new[y, x] - new[two])
                if ((y, x) in within) != (two in within) and mask[two if (y, x) in within else (y, x)] == SKIN:
                    across.append(step)
                    edge.add((y, x))
                if (y, x) in around and two in around:
                    plain.append(step)
            shift = max(1, round(1.6 * sigma))
            for two in ((y + shift, x), (y, x + shift)):
                if (y, x) in around and two in around:
                    moved.append(np.linalg.norm(sides[1][y, x] - sides[1][two]))
    seams = [np.linalg.norm(sides[0][p] - sides[1][p]) for p in edge]
    bitten = np.isin(mask, (RULER, BACKGROUND)) & (np.linalg.norm(old - new, axis=-1) > 10)
    return {
        "lesion_contrast": np.linalg.norm(place),
        "lesion_contrast_before": np.linalg.norm(lesion),
        "lesion_left": float(np.clip(place @ lesion / (lesion @ lesion), 0, 1)) if lesion @ lesion >= 2.3**2 else None,
        "mottle": np.median([local[p] for p in ring]),
        "stain": np.quantile([local[p] for p in inside], 0.95) - np.quantile([local[p] for p in ring], 0.95),
        **{f"texture_{size}": texture.get(size) for size in (1, 2, 4, 8, 16)},
        "grain": judged[0] / min(judged[1:]) if len(judged) > 1 else None,
        "ita_change": min(turned, 360 - turned)
        if shown_by > max(2.3, 1.5 * np.median([local[p] for p in ring]))
        else 0,
        "artefacts": np.mean([far[p] > np.quantile([far[q] for q in ring], 0.99) + 5 for p in inside]),
        "bitten": bitten.sum() / len(inside),
        "border_step": np.mean(across),
        "border_step_skin": np.mean(plain),
        "seam": np.quantile(seams, 0.95) - np.quantile(moved, 0.95),
    }


def half_healed(seed, tone, size, **options):
    """A photo, a result in which half of the lesion's colour is left beside new stains, a region and the mask."""
    before, mask = photo(seed, size, tone, **options)
    rng = np.random.default_rng(seed)
    weight = gaussian_filter(np.isin(mask, (LESION, MARKER)) * 1.0, 1.5)
    region = np.rint(255 * (weight / weight.max())).astype(np.uint8)
    lab = rgb_to_lab(before)
    skin = np.median(lab[(mask == SKIN) & (region == 0)], axis=0)
    stains = (rng.random(mask.shape) < 0.2)[..., None] * (0, 25, -10)
    healed = to_uint8(lab_to_rgb(0.5 * lab + 0.5 * skin + stains + (3, 0, -4)))
    return before, np.where(region[..., None] >= 40, healed, before), region, mask


@pytest.mark.parametrize(
    ("seed", "tone", "size", "options"),
    [
        (1, "light", 40, {"lesion": 0.04}),
        (2, "dark", 56, {"lesion": 0.08}),
        (3, "medium", 112, {"lesion": 0.02, "marker": False}),
        (4, "medium", 48, {"lesion": 0.0}),  # only a marker was painted over
    ],
)
def test_scores_are_those_of_their_definitions(seed, tone, size, options):
    case = half_healed(seed, tone, size, **options)
    scores, expected = scores_of(*case), by_hand(*case)
    assert set(scores) == set(expected) and 0 < scores["artefacts"] < 1
    for name, value in expected.items():
        assert scores[name] == (None if value is None else pytest.approx(value, abs=0.02, rel=0.01)), name


@pytest.mark.parametrize("left", [0, 12, 29, 30])
def test_where_little_skin_is_near_all_of_it_is_the_reference(left):
    before, after, region, mask = half_healed(1, "light", 40, lesion=0.04)
    mask = mask.copy()
    distance = distance_transform_edt(region == 0)
    near = np.flatnonzero((mask == SKIN) & (region == 0) & (distance <= 6))
    mask.reshape(-1)[near[left:]] = RULER  # so few pixels of skin stay near the region; the rest lies far off
    after = np.where((distance > 6)[..., None], after // 2, after)  # and is much darker
    scores, expected = scores_of(before, after, region, mask), by_hand(before, after, region, mask)
    assert scores["lesion_contrast"] == pytest.approx(expected["lesion_contrast"], abs=0.02)
    assert (scores["lesion_contrast"] < 15) == (left == 30)


@pytest.mark.parametrize("scale", [1.0, 0.4])
def test_texture_is_judged_in_the_octaves_that_a_photo_shows_and_grain_against_the_least_of_the_coarser_ones(scale):
    """The place has more of some octaves and less of others than the skin around; a ruler counts as neither."""
    rng, size = np.random.default_rng(4), 120
    shown, inside = np.ones((size, size), bool), np.zeros((size, size), bool)
    shown[:, -12:], inside[30:80, 30:80] = False, True
    noise = rng.normal(0, 4, (3, size, size))
    place = 0.8 * noise[0] + 4 * gaussian_filter(noise[1], 1.5) + 20 * gaussian_filter(noise[2], 6)
    lightness = 60 + np.where(inside, place, gaussian_filter(noise[0], 0.5) + 16 * gaussian_filter(noise[1], 3))
    found, ring = texture(lightness, shown, inside, shown & ~inside, scale), shown & ~inside
    expected = dict.fromkeys((1, 2, 4, 8, 16))
    for octave in [o for o in expected if o * scale / 2 >= 0.45]:
        fine, coarse = (mean_of(lightness[..., None], shown, s * scale)[..., 0] for s in (octave / 2, octave))
        spread = np.log(np.sqrt(mean_of((fine - coarse)[..., None] ** 2, shown, octave * scale)[..., 0]) + 0.02)
        expected[octave] = np.exp(spread[inside].mean() - spread[ring].mean())
    judged = [expected[octave] for octave in (1, 2, 4, 8) if expected[octave]]
    assert len(judged) == (4 if scale == 1 else 2) and (scale < 1 or min(judged[1:]) < 0.8 * max(judged[1:]))
    assert found["grain"] == pytest.approx(judged[0] / min(judged[1:]))
    assert {octave: found[f"texture_{octave}"] for octave in expected} == pytest.approx(expected)


def test_angles_differ_by_at_most_half_a_turn():
    assert [turn(angle) for angle in (350, -190, 180, -5, 0)] == [10, 170, 180, 5, 0]


def test_a_lesion_that_was_never_visible_leaves_nothing():
    before, mask = photo(5, 48, "medium", lesion=0.05, marker=False)
    before = np.where((mask == LESION)[..., None], np.median(before[mask == SKIN], axis=0), before).astype(np.uint8)
    region = ((mask == LESION) * 255).astype(np.uint8)
    assert scores_of(before, before, region, mask)["lesion_left"] is None


@pytest.mark.parametrize(
    ("score", "at", "beyond", "words", "beside"),
    [
        ("lesion_contrast", 6.0, 6.001, "lesion still there: colour difference 6.0", {}),
        ("lesion_left", 0.4, 0.401, "lesion still there: 40% of its contrast", {"lesion_contrast": 5.0}),
        ("lesion_contrast", 2.3, 2.301, "lesion still there: 100%", {"lesion_left": 1.0}),  # visible from here on
        ("stain", 3.0, 3.001, "lesion still there: a stain 3.0", {}),
        ("texture_2", 0.6, 0.599, "texture of 2 px", {"grain": None}),
        ("texture_8", 1.5, 1.501, "texture of 8 px", {}),
        ("grain", 1.4, 1.401, "texture: noise over a blur", {}),
        ("bitten", 0.01, 0.011, "artefacts: ruler or cloth", {}),
        ("seam", 3.0, 3.001, "artefacts: a seam", {}),
        ("ita_change", 12.0, 12.001, "tone", {}),
        ("artefacts", 0.05, 0.051, "artefacts: 5%", {}),
        ("border_step", 4.0, 4.001, "artefacts: step", {}),
    ],
)
def test_each_threshold_at_its_value(score, at, beyond, words, beside):
    inside, outside = (judge({**FAULTLESS, **beside, score: value}, TriageSettings()) for value in (at, beyond))
    assert inside.reasons == [] and inside.worst <= 1 < outside.worst
    (reason,) = outside.reasons
    assert reason.startswith(words)


@pytest.mark.parametrize(
    "scores",
    [
        {"lesion_left": None, "lesion_contrast": 5.0},
        {"lesion_left": 1.0, "lesion_contrast": 5.0, "mottle": 3.4},  # the skin around is as mottled
        {"texture_16": 3.0, "texture_1": None},
        {"seam": None},
        {"border_step": 4.001, "border_step_skin": 1.1},
        {"border_step": None, "border_step_skin": None},
    ],
)
def test_what_cannot_be_told_or_is_the_skins_own_is_no_fault(scores):
    judged = judge({**FAULTLESS, **scores}, TriageSettings())
    assert judged.reasons == [] and judged.worst <= 1


def test_thresholds_are_settings():
    strict = TriageSettings(
        lesion_contrast=1, lesion_left=0, texture=(0.99, 1.01), ita_change=0, artefacts=0.01, border_step=0.5, seam=0.1
    )
    spoilt = {**FAULTLESS, "lesion_contrast": 3.0, "ita_change": 0.1, "artefacts": 0.02, "border_step": 1.6}
    spoilt |= {"texture_4": 1.1, "seam": 0.2}
    assert len(judge(spoilt, strict).reasons) == 6 and judge(spoilt, TriageSettings()).reasons == []


def blurred(photo, region, sigma, rng):
    """The photo with its region blurred, and noise added that restores the finest texture."""
    smooth = np.stack([gaussian_filter(photo[..., c] * 1.0, sigma) for c in range(3)], -1)
    fine = (photo - np.stack([gaussian_filter(photo[..., c] * 1.0, 1.0) for c in range(3)], -1)).std()
    painted = smooth + rng.normal(0, fine, (*photo.shape[:2], 1))
    weight = region[..., None] / 255
    return np.rint(photo * (1 - weight) + painted * weight).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("size", [256, 512, pytest.param(1024, marks=pytest.mark.slow)])
def test_a_blur_with_noise_is_no_skin_at_any_size_and_skin_is(size):
    scale, rng = size / 512, np.random.default_rng(size)
    photo, mask = skin(size, size), hole(3, size)
    region = painted_region(mask, max(1, round(5 * scale)), 2 * scale)
    untouched = judge(scores_of(photo, photo, region, mask), TriageSettings())
    assert untouched.reasons == []
    for sigma in (4, 8):
        after = blurred(photo, region, sigma * scale, rng)
        reasons = judge(scores_of(photo, after, region, mask), TriageSettings()).reasons
        assert any(reason.startswith("texture") for reason in reasons), (sigma, reasons)


def test_what_a_person_would_see_is_seen():
    """Colour that is left, a seam, a bitten ruler and a disc of defocus, each in healed skin that is kept without it."""
    photo, mask = skin(11), hole(11)
    edge = np.argwhere(mask == LESION)[:, 1].min() - 6
    mask[:, :edge] = RULER
    photo[:, :edge] = 235
    region = painted_region(mask)
    inside = region >= 128
    lab = rgb_to_lab(photo)

    def reasons(after):
        return " ".join(judge(scores_of(photo, after, region, mask), TriageSettings()).reasons)

    def shifted(part, shift):
        return to_uint8(lab_to_rgb(np.where(part[..., None], lab + shift, lab)))

    assert reasons(photo) == ""
    assert "lesion still there" in reasons(shifted(inside, (-7, 2, 0)))
    y, x = np.argwhere(inside).mean(0)
    spot = np.hypot(*(np.mgrid[:512, :512] - np.array([y, x])[:, None, None])) < 14
    assert "stain" in reasons(shifted(spot, (-9, 6, 0)))
    assert "seam" in reasons(shifted(inside, (5.5, 0, 0)))
    bite = photo.copy()
    bite[int(y) - 10 : int(y) + 10, edge - 5 : edge] = photo[int(y), int(x)]
    assert "ruler or cloth" in reasons(bite)
    disc = blurred(photo, region, 3, np.random.default_rng(0))
    assert "texture" in reasons(disc)
