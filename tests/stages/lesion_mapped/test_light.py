"""Transplants on procedural photographs of 512 px: signs keep their colours, the edge is soft, ink and foreign places stay out."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.archive import Archive
from cgddi.core.images import LESION, MARKER, SKIN, decode_png
from cgddi.stages.lesion_mapped.blend import Blender
from cgddi.stages.lesion_mapped.donor import study
from cgddi.stages.lesion_mapped.lesion import cut, cut_out
from cgddi.stages.lesion_mapped.settings import LesionMappedSettings
from scipy import ndimage
from scipy.stats import spearmanr
from skimage.color import rgb2lab

from tests.core.procedural import lesion, skin
from tests.stages.lesion_mapped.world import run, spec_of, write_samples

SIZE = 512
PUBLISHED = {"lighting_match": False, "halo": False, "leave_behind": False, "plain_places": False}


def cast(photo, by):
    """The photo in light of another colour: linear gains of red, green and blue."""
    return np.rint(255 * ((photo / 255) ** 2.2 * by) ** (1 / 2.2)).clip(0, 255).astype(np.uint8)


def transplant(donor, canvas, **options):
    """(composite, canvas under it, donor's photo, lesion, paste weight) in the lesion's window, in the canvas's middle."""
    photo, mask = donor
    settings = LesionMappedSettings(image_size=SIZE, padding=20, dilate=4, blur=4, **options)
    cutout = cut_out(photo, mask, settings)
    height, width = cutout.shape.shape
    top, left = (SIZE - height) // 2, (SIZE - width) // 2
    result = canvas.copy()
    place = top + cutout.margin, left + cutout.margin
    Blender(cutout, settings.blending, settings.lighting_match).paste(
        result, np.full((SIZE, SIZE), SKIN, np.uint8), place
    )
    window = np.s_[top : top + height, left : left + width]
    return result[window], canvas[window], cutout.pixels, cutout.shape, cutout.weight


DONORS = {
    "light": lambda: skin(1, tone="light"),
    "dark": lambda: skin(2, tone="dark"),
    "bluish light": lambda: cast(skin(3, tone="light"), (0.8, 0.95, 1.15)),
}
CANVASES = {
    "light": lambda: skin(11, tone="light"),
    "medium": lambda: skin(12, tone="medium"),
    "dark": lambda: skin(13, tone="dark"),
    "yellowish": lambda: cast(skin(14, tone="medium"), (1.1, 1.0, 0.7)),
}


@pytest.fixture(scope="module")
def donors():
    return {name: lesion(make(), 4) for name, make in DONORS.items()}


def in_window(part, mask, margin):
    rows, columns = np.nonzero(mask == LESION)
    padded = np.pad(part, margin)
    return padded[rows.min() : rows.max() + 1 + 2 * margin, columns.min() : columns.max() + 1 + 2 * margin]


@pytest.mark.parametrize("target", CANVASES)
@pytest.mark.parametrize("source", DONORS)
def test_signs_keep_their_colours_and_the_edge_shows_no_rim(donors, source, target):
    photo, mask, alone = donors[source]
    result, canvas, before, shape, _ = transplant((photo, mask), CANVASES[target]())
    margin = (len(shape) - np.ptp(np.nonzero(mask == LESION)[0]) - 1) // 2
    signs = {name: in_window(part, mask, margin) for name, part in alone.items()}
    old, new, skin_lab = rgb2lab(before), rgb2lab(result), rgb2lab(canvas)
    means = {name: (old[part].mean(0), new[part].mean(0)) for name, part in signs.items()}
    hue = [np.arctan2(lab[2], lab[1]) for lab in means["blue"]]
    assert abs(np.degrees(np.angle(np.exp(1j * (hue[1] - hue[0]))))) <= 10
    for name in ("black", "white"):
        one, two = (np.hypot(*lab[1:]) for lab in means[name])
        assert abs(two - one) <= 5, (name, one, two)
    order = sorted(signs, key=lambda name: means[name][0][0])
    assert order == sorted(signs, key=lambda name: means[name][1][0]) == ["black", "blue", "brown", "white"]
    pigment = signs["blue"] | signs["black"] | signs["white"]
    assert spearmanr(old[pigment][:, 0], new[pigment][:, 0]).statistic > 0.99
    clipped = [((each == 0) | (each == 255)).any(-1) for each in (before, canvas, result)]
    assert not (clipped[2] & ~clipped[0] & ~clipped[1]).any()
    away = ndimage.distance_transform_edt(~shape)
    ring = (away > 6) & (away <= 16)
    difference = (np.stack([ndimage.gaussian_filter(lab[..., c], 3) for c in range(3)], -1) for lab in (new, skin_lab))
    assert np.median(np.sqrt(((next(difference) - next(difference)) ** 2).sum(-1))[ring]) <= 3


def test_redness_beside_a_lesion_falls_off_softly_instead_of_being_cut():
    photo, mask, _ = lesion(skin(5, tone="light", hairs=0), 4, redness=14)
    profiles = {}
    for halo in (True, False):
        result, canvas, _, shape, _ = transplant((photo, mask), skin(15, tone="light", hairs=0), halo=halo)
        red = (rgb2lab(result) - rgb2lab(canvas))[..., 1]
        away = np.ceil(ndimage.distance_transform_edt(~shape))
        profiles[halo] = np.array([red[away == far].mean() for far in range(6, 30)])
    assert profiles[True][0] > 8 and profiles[True][8] > 2, "redness 14 px from the mask comes along"
    assert (np.diff(profiles[True]) < 0.4).all() and np.diff(profiles[True]).min() > -1.5, "falls, and without a step"
    assert profiles[False][8] < 1
    plain = study(*lesion(skin(5, tone="light", hairs=0), 4)[:2], LesionMappedSettings())
    assert plain.halo < 10


@pytest.mark.parametrize("known", [True, False], ids=["in the mask", "by its looks"])
def test_ink_stays_behind(known):
    photo, mask, _ = lesion(skin(6, tone="light"), 4, ink=True)
    marker = in_window(mask == MARKER, mask, 0)
    told = mask if known else np.where(mask == MARKER, SKIN, mask)
    carried = {}
    for leave in (True, False):
        result, canvas, _, shape, weight = transplant((photo, told), skin(16, tone="light"), leave_behind=leave)
        margin = (len(shape) - len(marker)) // 2
        ink = in_window(mask == MARKER, mask, margin)
        assert ink.sum() > 300
        carried[leave] = (weight[ink] > 0.2 * 255).mean()
        if leave:
            assert (weight[ink] == 0).all() if known else (weight[ink] == 0).mean() > 0.95
            assert np.abs(rgb2lab(result)[ink] - rgb2lab(canvas)[ink]).mean() < 1
            assert (weight[shape] > 128).mean() > 0.95, "of the lesion nearly all comes"
    assert carried[False] > 0.4 and carried[True] < 0.02


def test_holes_in_a_mask_and_halos_beyond_the_skin():
    photo, mask, _ = lesion(skin(7, tone="light", hairs=0), 4, redness=14)
    result = skin(17, tone="light")
    settings = LesionMappedSettings(image_size=SIZE, padding=0)
    cutout = cut(study(photo, mask, settings), settings)
    assert cutout.halo > 12
    canvas_mask = np.full((SIZE, SIZE), SKIN, np.uint8)
    canvas_mask[:, :100] = 3
    before = result.copy()
    Blender(cutout, "alpha", True).paste(result, canvas_mask, (150, 101))
    assert (result[:, :100] == before[:, :100]).all(), "a halo ends at the skin's edge"
    holed = mask.copy()
    middle = np.argwhere(mask == LESION).mean(0).astype(int)
    holed[middle[0] - 4 : middle[0] + 4, middle[1] - 4 : middle[1] + 4] = SKIN
    weight = cut(study(photo, holed, settings), settings).weight
    assert weight[len(weight) // 2 - 40 : len(weight) // 2 + 40, weight.shape[1] // 2].min() > 200


def mapped(folder, donor, canvases, settings=None, **keys):
    """Rows of the composites of one donor, by canvas."""
    spec = spec_of("lesion_mapped", {"image_size": SIZE, **(settings or {})}, images=["d"], canvas_cohort="c", **keys)
    files = [write_samples(folder / name, rows) for name, rows in (("d.tar", donor), ("c.tar", canvases))]
    output = folder / "o.tar"
    assert run("lesion_mapped", "--photos", files[0], "--canvases", files[1], "--output", output, spec=spec) == 0
    archive = Archive(output)
    return archive, {row["canvas"]: row for row in archive.rows}


@pytest.mark.parametrize("what", ["lip", "cloth"])
def test_places_that_do_not_look_like_skin_are_avoided_where_a_mask_does_not_know_them(tmp_path, what):
    photo, mask, _ = lesion(skin(8, tone="light"), 4, radius=25)
    canvas = skin(18, tone="light")
    band = np.zeros((SIZE, SIZE), bool)
    band[150:310] = True
    canvas[band] = cast(canvas, (0.75, 0.35, 0.4) if what == "lip" else (0.3, 0.6, 0.9))[band]
    one = np.full((SIZE, SIZE), SKIN, np.uint8)
    canvases = [(f"k{n}", canvas, one, {}) for n in range(25)]
    archive, rows = mapped(tmp_path, [("d", photo, mask, {})], canvases)
    for row in rows.values():
        assert not (decode_png(archive.read(row, "mask.png"))[152:308] == LESION).any()
        assert 0.25 < row["avoided"] < 0.4
    _, blind = mapped(tmp_path, [("d", photo, mask, {})], canvases, {"plain_places": False})
    assert any(120 < row["place"][0] < 300 for row in blind.values()) and blind["k0"]["avoided"] is None
    plain = [("k", skin(19, tone="dark"), one, {})]
    assert mapped(tmp_path, [("d", photo, mask, {})], plain)[1]["k"]["avoided"] < 0.1


def test_millimetres_per_pixel_bring_both_to_one_scale(tmp_path):
    photo, mask, _ = lesion(skin(9, tone="light"), 4, radius=40)
    frame = {"width": 2000, "height": 1000, "crop": "square"}
    plain = np.full((SIZE, SIZE), SKIN, np.uint8)
    canvases = [(name, skin(19), plain, {"shown_side": 500.0}) for name in ("half", "unknown", "tiny")]
    known = {"d": 0.02, "half": 0.08, "tiny": 9.0}
    archive, rows = mapped(tmp_path, [("d", photo, mask, frame)], canvases, mm_per_px=known)
    # the donor shows 1000 px of 0.02 mm, 20 mm across; the canvas 500 px of 0.08 mm, 40 mm
    assert rows["half"]["to_scale"] == rows["half"]["scale"] == 0.5 and rows["unknown"]["to_scale"] is None
    area = (mask == LESION).sum()
    assert rows["half"]["lesion_pixels"] == pytest.approx(area / 4, rel=0.1)
    assert rows["unknown"]["lesion_pixels"] == area
    (left_out,) = archive.record["skipped"]
    assert left_out["id"] == "d/tiny" and "mm_per_px" in left_out["reason"]


def test_the_manifest_says_what_was_done(tmp_path):
    photo, mask, _ = lesion(skin(10, tone="light"), 4, radius=40, redness=14, ink=True)
    canvases = [("k", skin(13, tone="dark"), np.full((SIZE, SIZE), SKIN, np.uint8), {})]
    row = mapped(tmp_path, [("d", photo, mask, {})], canvases)[1]["k"]
    assert row["light"][0] < -15 and row["halo"] > 10 and row["left_behind"] > 100 and row["to_scale"] is None
    row = mapped(tmp_path, [("d", photo, mask, {})], canvases, PUBLISHED)[1]["k"]
    assert (row["light"], row["halo"], row["left_behind"], row["avoided"]) == (None, 0.0, 0, None)
