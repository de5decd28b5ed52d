"""Composites: where the lesion lies, what the pixels and masks hold, what is skipped and why."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import numpy as np
import pytest
from cgddi.core.archive import Archive
from cgddi.core.images import BACKGROUND, LESION, MARKER, RULER, SKIN, decode_png
from cgddi.core.seeds import seed_for
from cgddi.stages.lesion_mapped.settings import LesionMappedSettings
from scipy import ndimage

from tests.stages.lesion_mapped.world import photo, run, spec_of, write_samples

SIZE = 96


def canvas(seed: int, tone: str = "light", size: int = SIZE, marker: bool = False):
    """A healthy canvas: no lesion, a ruler and cloth, and ink that was not painted over, if asked for."""
    picture, mask = photo(seed, size, tone, lesion=0, marker=marker)
    return picture, np.where(mask == LESION, SKIN, mask)


@pytest.fixture
def donor(tmp_path):
    return write_samples(
        tmp_path / "donors.tar",
        [("d", *photo(1, SIZE, lesion=0.02), {"concept": "melanoma", "malignant": True, "cohort": "ddi"})],
    )


@pytest.fixture
def canvases(tmp_path):
    tones = ("light", "medium", "dark")
    samples = [
        (f"k{n}", *canvas(n + 10, tones[n % 3], marker=n % 2 == 0), {"tone": tones[n % 3], "cohort": "f17k"})
        for n in range(9)
    ]
    return write_samples(tmp_path / "canvases.tar", samples)


def map_to(output, donor, canvases, settings=None, donors=("d",)):
    settings = {"image_size": SIZE, "padding": 5, **(settings or {})}
    spec = spec_of("lesion_mapped", settings, images=list(donors), canvas_cohort="f17k")
    assert run("lesion_mapped", "--photos", donor, "--canvases", canvases, "--output", output, spec=spec) == 0
    return Archive(output)


def pair(archive, row, canvases):
    """(composite, its mask, canvas, canvas mask) of a row."""
    pool = Archive(canvases)
    base = next(each for each in pool.rows if each["key"] == row["canvas"])
    composite, mask = decode_png(archive.read(row)), decode_png(archive.read(row, "mask.png"))
    return composite, mask, decode_png(pool.read(base)), decode_png(pool.read(base, "mask.png"))


PUBLISHED = {"lighting_match": False, "halo": False, "leave_behind": False, "plain_places": False}
VARIANTS = {
    "default": {},
    "published": PUBLISHED,
    "poisson": {"blending": "poisson", "lighting_match": False},
    "poisson and lighting": {"blending": "poisson", "lighting_match": True},
    "turned and scaled": {"scale": (0.6, 1.4), "rotation": (-180, 180)},
    "no padding": {"padding": 0},
    "no blur": {"blur": 0, "dilate": 0},
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_composite_keeps_its_distance_and_tells_its_lineage(donor, canvases, tmp_path, name):
    settings = {"padding": 5, **VARIANTS[name]}
    archive = map_to(tmp_path / "out.tar", donor, canvases, settings)
    assert len(archive.rows) == 9
    for row in archive.rows:
        composite, mask, before, before_mask = pair(archive, row, canvases)
        lesion = mask == LESION
        valid = np.pad(np.isin(before_mask, (SKIN, LESION, MARKER)), 1)
        depth = ndimage.distance_transform_edt(valid)[1:-1, 1:-1]
        assert lesion.sum() == row["lesion_pixels"] and (depth[lesion] > settings["padding"]).all()
        assert [int(axis.min()) for axis in np.nonzero(lesion)] == row["place"]
        assert (mask[~lesion] == before_mask[~lesion]).all()
        reach = ndimage.binary_dilation(lesion, np.ones((3, 3)), iterations=2 + 8)
        assert (composite[~reach] == before[~reach]).all()
        assert (composite[lesion] != before[lesion]).any(-1).mean() > 0.9
        assert (row["donor"], row["donor_cohort"], row["cohort"]) == ("d", "ddi", "f17k")
        assert row["concept"] == "melanoma" and "malignant" not in row, "the index tells the donor's"
        assert row["id"] == f"lesion_mapped/f17k/{row['key']}" and row["key"] == f"d/{row['canvas']}"
    assert {row["tone"] for row in archive.rows} == {"light", "medium", "dark"}
    assert len({tuple(row["place"]) for row in archive.rows}) > 5


def test_the_published_paste_to_the_last_level(donor, canvases, tmp_path):
    archive = map_to(tmp_path / "out.tar", donor, canvases, PUBLISHED)
    picture, donor_mask = photo(1, SIZE, lesion=0.02)
    shape = donor_mask == LESION
    grown = ndimage.binary_dilation(shape, np.ones((3, 3)), iterations=2)
    weight = np.rint(ndimage.gaussian_filter(grown * 255.0, 2.0)) / 255
    corner = np.argwhere(shape).min(0)
    for row in archive.rows:
        composite, _, before, _ = pair(archive, row, canvases)
        shift = tuple(np.array(row["place"]) - corner)
        alpha = np.roll(weight, shift, (0, 1))[..., None]
        expected = before * (1 - alpha) + np.roll(picture, shift, (0, 1)) * alpha
        assert np.abs(composite - expected).max() <= 0.5 + 1e-6


def test_where_a_lesion_lies_is_drawn_by_name_from_all_positions_that_keep_the_distance(donor, canvases, tmp_path):
    """The positions by scipy's erosions, in reading order; the draw by numpy from the seed of the names."""
    archive = map_to(tmp_path / "out.tar", donor, canvases, {"padding": 4})
    shape = photo(1, SIZE, lesion=0.02)[1] == LESION
    rows, columns = np.flatnonzero(shape.any(1)), np.flatnonzero(shape.any(0))
    shape = shape[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    disc = np.hypot(*np.mgrid[-4:5, -4:5]) <= 4
    seeds = set()
    for row in archive.rows:
        _, _, _, before_mask = pair(archive, row, canvases)
        inside = ndimage.binary_erosion(np.isin(before_mask, (SKIN, LESION, MARKER)), disc, border_value=0)
        fits = np.array(
            [
                (y, x)
                for y in range(SIZE - shape.shape[0] + 1)
                for x in range(SIZE - shape.shape[1] + 1)
                if inside[y : y + shape.shape[0], x : x + shape.shape[1]][shape].all()
            ]
        )
        assert row["positions"] == len(fits) and row["seed"] == seed_for(7, "lesion_mapped", "f17k", "d", row["canvas"])
        assert (fits[np.random.default_rng(row["seed"]).integers(len(fits))] == row["place"]).all()
        seeds.add(row["seed"])
    assert len(seeds) == 9


def test_scale_and_rotation_are_drawn_by_name_over_their_ranges(donor, canvases, tmp_path):
    archive = map_to(tmp_path / "out.tar", donor, canvases, {"scale": (0.6, 1.4), "rotation": (-30, 90)})
    for row in archive.rows:
        rng = np.random.default_rng(seed_for(row["seed"], "geometry"))
        assert (row["scale"], row["rotation"]) == (round(rng.uniform(0.6, 1.4), 6), round(rng.uniform(-30, 90), 6))
    fixed = map_to(tmp_path / "fixed.tar", donor, canvases, {"scale": (0.8, 0.8)}).rows
    assert {(row["scale"], row["rotation"]) for row in fixed} == {(0.8, 0.0)}


def test_what_is_published_is_the_default():
    settings = LesionMappedSettings()
    assert (settings.image_size, settings.padding, settings.dilate, settings.blur) == (256, 10, 2, 2.0)
    assert (settings.scale, settings.rotation, settings.blending) == ((1.0, 1.0), (0.0, 0.0), "alpha")
    ours = (settings.lighting_match, settings.halo, settings.leave_behind, settings.plain_places)
    assert all(ours)  # published: none of them


def test_equal_input_gives_equal_bytes_and_a_canvas_depends_on_itself_alone(donor, canvases, tmp_path):
    one = map_to(tmp_path / "one.tar", donor, canvases, {"scale": (0.8, 1.2)})
    map_to(tmp_path / "two.tar", donor, canvases, {"scale": (0.8, 1.2)})
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    pool = Archive(canvases)
    some = [
        (row["key"], decode_png(pool.read(row)), decode_png(pool.read(row, "mask.png")), {}) for row in pool.rows[::-2]
    ]
    fewer = map_to(
        tmp_path / "few.tar", donor, write_samples(tmp_path / "few_canvases.tar", some), {"scale": (0.8, 1.2)}
    )
    whole = {row["key"]: row["sha256"] for row in one.rows}
    assert len(fewer.rows) == 5 and all(row["sha256"] == whole[row["key"]] for row in fewer.rows)


@pytest.mark.parametrize("settings", [{}, {"scale": (0.8, 1.2)}], ids=["one size", "scaled"])
def test_each_lesion_of_a_batch_is_as_if_alone(tmp_path, settings):
    """Donors with and without a mask, one larger than a canvas has room for; canvases whose looks are asked for (skin alone in the
    mask, a dark band in the photo) and not."""
    far = photo(9, SIZE, lesion=0.4, marker=False, ruler=False)
    donors = [("b", *photo(1, SIZE, lesion=0.02), {}), ("a", *photo(5, SIZE, "dark", 0.01), {})]
    donors += [("none", photo(2, SIZE)[0], None, {}), ("large", *far, {}), ("unasked", *photo(3, SIZE), {})]
    batch, samples = write_samples(tmp_path / "batch.tar", donors), []
    for number in range(4):
        picture, mask = canvas(number + 20)
        if number % 2:
            picture[:40] = (20, 10, 60)
            mask = np.full_like(mask, SKIN)
        samples.append((f"k{number}", picture, mask, {}))
    pool, names = write_samples(tmp_path / "canvases.tar", samples), ("large", "b", "none", "a")
    together = map_to(tmp_path / "out.tar", batch, pool, settings, names)
    assert [row["donor"] for row in together.rows if row["donor"] != "large"] == ["b"] * 4 + ["a"] * 4
    left = {name: [e for e in together.record["skipped"] if e["id"].split("/")[0] == name] for name in names}
    assert left["large"] and [e["id"] for e in left["none"]] == ["none"] and not left["a"] + left["b"]
    assert [row["avoided"] is not None for row in together.rows if row["donor"] == "b"] == [False, True] * 2
    for name in names:
        alone = map_to(tmp_path / f"{name}.tar", batch, pool, settings, [name])
        mine = [row for row in together.rows if row["donor"] == name]
        assert [{**row, "members": None} for row in mine] == [{**row, "members": None} for row in alone.rows]
        for row, other in zip(mine, alone.rows, strict=True):
            assert together.read(row, "mask.png") == alone.read(other, "mask.png")
        assert left[name] == alone.record["skipped"]


def test_photos_and_masks_of_other_sizes(tmp_path):
    small, large = photo(1, 64, lesion=0.03), canvas(5, size=160)
    donor = write_samples(tmp_path / "d.tar", [("d", *small, {})])
    pool = write_samples(tmp_path / "c.tar", [("k", *large, {})])
    archive = map_to(tmp_path / "o.tar", donor, pool)
    assert decode_png(archive.read(archive.rows[0])).shape == (SIZE, SIZE, 3)
    assert decode_png(archive.read(archive.rows[0], "mask.png")).shape == (SIZE, SIZE)


def changed_mask(change):
    picture, mask = photo(1, SIZE, lesion=0.02)
    return picture, change(mask)


DONORS = {
    "empty lesion": (lambda mask: np.where(mask == LESION, SKIN, mask), "no lesion"),
    "covers the image": (lambda mask: np.full_like(mask, LESION), "covers the donor's whole image"),
    "too large": (
        lambda mask: np.where(np.arange(SIZE)[:, None] + 0 * mask > 10, LESION, mask),
        "smaller than the lesion",
    ),
    "fits nowhere": (
        lambda mask: np.where(np.hypot(*(np.mgrid[:SIZE, :SIZE] - 48)) < 41, LESION, SKIN),
        "fits nowhere",
    ),
}


@pytest.mark.parametrize("name", DONORS)
def test_a_donor_that_cannot_be_mapped_is_recorded(canvases, tmp_path, name):
    change, words = DONORS[name]
    donor = write_samples(tmp_path / "d.tar", [("d", *changed_mask(change), {})])
    archive = map_to(tmp_path / "o.tar", donor, canvases)
    assert not archive.rows and archive.record["images"] == 0
    assert archive.record["skipped"] and all(words in entry["reason"] for entry in archive.record["skipped"])


def test_a_donor_without_a_mask_is_recorded(canvases, tmp_path):
    donor = write_samples(tmp_path / "d.tar", [("d", photo(1, SIZE)[0], None, {})])
    assert "no mask" in map_to(tmp_path / "o.tar", donor, canvases).record["skipped"][0]["reason"]


def test_canvases_without_room_stop_no_other(donor, tmp_path):
    picture, mask = canvas(4)
    bare = np.full_like(mask, BACKGROUND)
    narrow = np.where(np.arange(SIZE)[None] + 0 * mask < 14, SKIN, RULER)
    samples = [("bare", picture, bare, {}), ("good", picture, mask, {}), ("narrow", picture, narrow, {})]
    archive = map_to(tmp_path / "o.tar", donor, write_samples(tmp_path / "c.tar", samples))
    assert [row["key"] for row in archive.rows] == ["d/good"]
    reasons = {entry["id"]: entry["reason"] for entry in archive.record["skipped"]}
    assert "the canvas has no skin" in reasons["d/bare"] and "fits nowhere" in reasons["d/narrow"]


def test_a_lesion_at_the_border_is_continued_by_its_edge(canvases, tmp_path):
    picture, mask = photo(1, SIZE, lesion=0.02, ruler=False, marker=False)
    mask = np.where(mask == LESION, SKIN, mask)
    mask[:8, 40:52] = LESION
    picture[:8, 40:52] = (90, 40, 40)
    donor = write_samples(tmp_path / "d.tar", [("d", picture, mask, {"flags": ["touches_border"]})])
    archive = map_to(tmp_path / "o.tar", donor, canvases, {"lighting_match": False})
    for row in archive.rows:
        composite, made, *_ = pair(archive, row, canvases)
        y, x = row["place"]
        assert row["donor_touches_border"] and (made == LESION).sum() == 96
        inside = composite[y + 1, x + 4 : x + 8].astype(int)  # near the edge that was the photo's
        assert np.abs(inside - (90, 40, 40)).max() <= 12
        assert np.abs(composite[y - 1, x + 6].astype(int) - (90, 40, 40)).max() <= 60


def test_an_unknown_donor_is_a_users_error(donor, canvases, tmp_path, capsys):
    spec = spec_of("lesion_mapped", {"image_size": SIZE}, images=["d", "x"], canvas_cohort="c")
    assert (
        run("lesion_mapped", "--photos", donor, "--canvases", canvases, "--output", tmp_path / "o.tar", spec=spec) == 2
    )
    assert "lacks image(s) x. Run" in capsys.readouterr().err
    assert not (tmp_path / "o.tar").exists()


def peak_kib(donor, canvases, output) -> int:
    """Peak memory of one mapping job in a process of its own."""
    spec = spec_of("lesion_mapped", {"image_size": 64, "padding": 2}, images=["d"], canvas_cohort="c")
    code = (
        "import sys, json, resource; from cgddi.cli import main; "
        "assert main(sys.argv[1:]) == 0; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    file = output.with_suffix(".spec.json")
    file.write_text(json.dumps(spec))
    words = ["lesion_mapped", "--spec", file, "--photos", donor, "--canvases", canvases, "--output", output]
    result = subprocess.run([sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, check=True)
    return int(result.stdout.split()[-1])


def test_memory_does_not_grow_with_the_canvases(tmp_path):
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > 0
    donor = write_samples(tmp_path / "d.tar", [("d", *photo(1, 64, lesion=0.02), {})])
    picture, mask = canvas(3, size=64)
    peaks = []
    for count in (20, 520):
        samples = ((f"k{number:05d}", picture, mask, {}) for number in range(count))
        pool = write_samples(tmp_path / f"{count}.tar", samples)
        peaks.append(peak_kib(donor, pool, tmp_path / f"o{count}.tar"))
    pictures = 500 * (picture.nbytes + mask.astype(np.uint8).nbytes) / 1024
    assert peaks[1] - peaks[0] < pictures / 2, peaks  # 8 MiB of pictures; what grows is 2 KiB of manifest per image


def test_lesions_lie_where_skin_was_found_on_the_healthy_image(donor, canvases, tmp_path):
    """With masks of their own (masks.on_healthy) the canvases' photos' masks do not count; one without is skipped."""
    right = np.where(np.arange(SIZE) >= SIZE // 2, SKIN, BACKGROUND)[None].repeat(SIZE, 0)
    skin = [(f"k{n}", np.zeros((SIZE, SIZE, 3), np.uint8), right, {}) for n in range(8)]
    write_samples(tmp_path / "skin.tar", skin)
    spec = spec_of("lesion_mapped", {"image_size": SIZE, "padding": 5}, images=["d"], canvas_cohort="f17k")
    words = ("--photos", donor, "--canvases", canvases, "--skin", tmp_path / "skin.tar", "--output", tmp_path / "o.tar")
    assert run("lesion_mapped", *words, spec=spec) == 0
    archive = Archive(tmp_path / "o.tar")
    assert [row["canvas"] for row in archive.rows] == [f"k{n}" for n in range(8)]
    for row in archive.rows:
        mask = decode_png(archive.read(row, "mask.png"))
        columns = np.nonzero(mask == LESION)[1]
        assert columns.min() >= SIZE // 2 + 5 and (mask[:, : SIZE // 2] == BACKGROUND).all()
        before = decode_png(
            Archive(canvases).read(next(r for r in Archive(canvases).rows if r["key"] == row["canvas"]))
        )
        assert (decode_png(archive.read(row))[:, : SIZE // 2] == before[:, : SIZE // 2]).all(), "the canvas itself"
    assert archive.record["skipped"] == [{"id": "d/k8", "reason": "no skin was found on the healthy image"}]
