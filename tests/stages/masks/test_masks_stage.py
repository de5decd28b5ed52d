"""Photos and masks as clinics have them: every odd one is converted, recorded or named, and stops no other."""

from __future__ import annotations

import numpy as np
import pytest
from cgddi.core.archive import Archive
from cgddi.core.errors import UserError
from cgddi.core.images import (
    LESION,
    MARKER,
    RULER,
    SKIN,
    decode_png,
    mask_to_size,
    photo_to_size,
    read_photo,
)
from cgddi.core.masks import read_mask
from cgddi.stages.masks.quality import explained_variance, mask_flags
from cgddi.stages.masks.settings import MasksSettings
from PIL import Image

from tests.stages.lesion_mapped.world import photo, row_of, run, spec_of, write_photos

ROWS = np.arange(64)[:, None] + np.zeros((64, 64), int)


def write(rows, output, settings=None):
    return run("masks", "--output", output, spec=spec_of("masks", settings, rows=rows, cohort="c", batch="nevus.000"))


def test_a_batch_at_working_size(tmp_path):
    rows = write_photos(tmp_path / "in", 3, 96)
    rows.append(row_of("plain", tmp_path / "in" / "000000.png", None))
    assert write(rows, tmp_path / "m.tar", {"size": 48}) == 0
    archive = Archive(tmp_path / "m.tar")
    assert [row["key"] for row in archive.rows] == ["000000", "000001", "000002", "plain"]
    first, plain = archive.rows[0], archive.rows[-1]
    mask = decode_png(archive.read(first, "mask.png"))
    assert decode_png(archive.read(first)).shape == (48, 48, 3) and mask.shape == (48, 48)
    assert set(np.unique(mask)) == {0, LESION, MARKER, RULER, SKIN}
    assert first["has_mask"] and first["has_ruler"] and first["has_marker"] and first["mask_source"] == "human"
    assert (first["width"], first["height"], first["crop"], first["flags"]) == (96, 96, "resize", [])
    assert first["id"] == "real/c/000000" and abs(sum(first["shares"]) - 1) < 1e-5
    assert not plain["has_mask"] and plain["mask_source"] is None
    assert not {"concept", "tone", "malignant", "group"} & set(plain), "labels come by the spec of who uses them"
    assert "mask.png" not in plain["members"]


def test_equal_input_gives_equal_bytes(tmp_path):
    rows = write_photos(tmp_path / "in", 2, 64)
    for name in ("a", "b"):
        write(rows, tmp_path / f"{name}.tar", {"size": 32})
    for suffix in (".tar", ".jsonl", ".json"):
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def odd_photo(folder, kind):
    """A file of an odd kind, and the note that the row should carry."""
    array = photo(1, 64)[0]
    picture, path = Image.fromarray(array), folder / f"{kind}.png"
    note = f"converted_from_{kind}"
    if kind == "RGBA":
        picture.putalpha(Image.fromarray(np.full((64, 64), 255, np.uint8)))
        picture.save(path)
    elif kind == "I_16":
        Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257).save(path)
    elif kind == "exif":
        path, note = path.with_suffix(".jpg"), "exif_rotated"
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=100, subsampling=0)
    elif kind == "CMYK":
        path = path.with_suffix(".jpg")
        picture.convert("CMYK").save(path, quality=100)
    else:
        picture.convert(kind).save(path)
    return path, note


@pytest.mark.parametrize("kind", ["RGBA", "L", "LA", "I_16", "CMYK", "P", "1", "exif"])
def test_odd_photos_are_converted_and_noted(tmp_path, kind):
    path, note = odd_photo(tmp_path, kind)
    pixels, notes = read_photo(path)
    assert notes == [note] and pixels.mode == "RGB"
    expected = photo(1, 64)[0].astype(float)
    if kind in ("L", "LA", "I_16"):
        expected = np.asarray(Image.fromarray(expected.astype(np.uint8)).convert("L"))[..., None].astype(float)
    limit = {"P": 60, "1": 110}.get(kind, 4)  # few colours, and dithering
    assert np.abs(np.asarray(pixels) - expected).mean() < limit


BAD = {
    "no file": lambda folder: (folder / "gone.png", None, "no such file"),
    "not a photo": lambda folder: (text(folder / "text.png"), None, "cannot be read as an image"),
    "cut short": lambda folder: (cut(folder / "cut.png"), None, "cannot be read as an image"),
    "no mask file": lambda folder: (good(folder), folder / "gone.npy", "no such mask file"),
    "npz": lambda folder: (good(folder), npz(folder / "m.npz"), "not .npz"),
    "npz named npy": lambda folder: (good(folder), npz(folder / "n.npy"), "npz archive"),
    "pickle": lambda folder: (
        good(folder),
        save(folder / "o.npy", np.array([[{}]], object)),
        "cannot be read as a .npy",
    ),
    "3-D": lambda folder: (good(folder), save(folder / "d.npy", np.zeros((4, 4, 3), int)), "2-D array"),
    "float": lambda folder: (good(folder), save(folder / "f.npy", np.full((4, 4), 0.5)), "2-D array"),
    "stranger": lambda folder: (good(folder), save(folder / "s.npy", np.full((4, 4), 7)), "values that are no class"),
    "colours": lambda folder: (good(folder), good(folder), "colour picture"),
}


def text(path):
    path.write_text("no picture")
    return path


def cut(path):
    Image.fromarray(photo(1, 64)[0]).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    return path


def good(folder):
    Image.fromarray(photo(1, 64)[0]).save(folder / "good.png")
    return folder / "good.png"


def npz(path):
    with open(path, "wb") as handle:
        np.savez(handle, mask=np.zeros((4, 4), int))
    return path


def save(path, array):
    np.save(path, array)
    return path


def test_all_unreadable_photos_are_named_in_one_report(tmp_path, capsys):
    made = {name: result for name, make in BAD.items() if (result := make(tmp_path))[1] is None}
    rows = [row_of(f"bad{number}", file, None) for number, (file, _, _) in enumerate(made.values())]
    rows += write_photos(tmp_path / "in", 1, 32)
    assert write(rows, tmp_path / "m.tar", {"size": 32}) == 2
    report = capsys.readouterr().err
    assert len(made) == 3 and "3 problem(s)" in report
    for number, (_, _, words) in enumerate(made.values()):
        line = next(line for line in report.splitlines() if f"image bad{number}:" in line)
        assert words in line
    assert not (tmp_path / "m.tar").exists() and not list(tmp_path.glob(".*"))


def test_unreadable_masks_are_left_out_and_the_photos_go_on(tmp_path, capsys):
    made = {name: found for name, make in BAD.items() if (found := make(tmp_path))[1] is not None}
    rows = [row_of(f"bad{number}", file, mask) for number, (file, mask, _) in enumerate(made.values())]
    rows += write_photos(tmp_path / "in", 1, 32)
    assert write(rows, tmp_path / "m.tar", {"size": 32}) == 0
    archive = Archive(tmp_path / "m.tar")
    *bad, fine = archive.rows
    assert len(bad) == 8 and fine["has_mask"] and fine["mask_source"] == "human"
    assert all(row["flags"] == ["mask_unreadable"] and not row["has_mask"] for row in bad)
    assert all(row["mask_source"] is None and set(row["members"]) == {"png"} for row in bad)
    reasons = {entry["id"]: entry["reason"] for entry in archive.record["skipped"]}
    shown = capsys.readouterr().err
    for number, (_, _, words) in enumerate(made.values()):
        assert words in reasons[f"bad{number}"] and f"bad{number}: mask left out" in shown
    assert archive.record["flags"] == {"mask_unreadable": 8} and archive.record["sources"] == {"human": 1}


def turned_photos(folder, count):
    """Photos whose rulers lie on different sides, as photos taken by hand do."""
    rows = write_photos(folder, count, 64, lesion=0.1)
    for number, row in enumerate(rows):
        Image.open(row["file"]).rotate(90 * number).save(row["file"])
        np.save(row["mask"], np.rot90(np.load(row["mask"]), number))
    return rows


def test_masks_under_each_others_names_are_said(tmp_path, capsys):
    rows = turned_photos(tmp_path / "in", 6)
    rows[1]["mask"], rows[4]["mask"] = rows[4]["mask"], rows[1]["mask"]
    write(rows, tmp_path / "m.tar", {"size": 64})
    found = {row["key"]: row for row in Archive(tmp_path / "m.tar").rows}
    assert [key for key, row in found.items() if "mask_swapped" in row["flags"]] == ["000001", "000004"]
    assert found["000001"]["mask_fits"] == "000004" and found["000001"]["has_mask"]
    assert "the mask of 000001 fits this photo better" in capsys.readouterr().err


def test_masks_that_went_one_further_are_said(tmp_path):
    rows = turned_photos(tmp_path / "in", 4)
    write(rows, tmp_path / "right.tar", {"size": 64})
    assert all(row["flags"] == [] for row in Archive(tmp_path / "right.tar").rows)
    masks = [row["mask"] for row in rows]
    for row, mask in zip(rows, masks[1:] + masks[:1], strict=True):
        row["mask"] = mask
    write(rows, tmp_path / "m.tar", {"size": 64})
    assert all("mask_swapped" in row["flags"] for row in Archive(tmp_path / "m.tar").rows)


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (lambda mask: np.full_like(mask, SKIN), "no_lesion"),
        (lambda mask: np.where(ROWS < 40, LESION, SKIN), "lesion_over_half"),
        (lambda mask: np.full_like(mask, LESION), "lesion_covers_image"),
        (lambda mask: np.where(ROWS % 20 == 10, LESION, SKIN), "several_parts"),
        (lambda mask: np.where(ROWS < 3, LESION, SKIN), "touches_border"),
        (lambda mask: np.where(mask == SKIN, 0, mask), "no_skin"),
    ],
)
def test_odd_masks_are_flagged_and_kept(tmp_path, change, flag):
    picture, mask = photo(1, 64)
    Image.fromarray(picture).save(tmp_path / "p.png")
    np.save(tmp_path / "m.npy", change(mask).astype(np.int32))
    assert write([row_of("p", tmp_path / "p.png", tmp_path / "m.npy")], tmp_path / "m.tar", {"size": 64}) == 0
    assert flag in Archive(tmp_path / "m.tar").rows[0]["flags"]
    assert mask_flags(mask) == []


def test_a_mask_of_another_shape_is_left_out_and_stops_no_other(tmp_path):
    rows = write_photos(tmp_path / "in", 1, 64)
    np.save(tmp_path / "wide.npy", np.full((20, 50), SKIN, np.int32))
    rows.append(row_of("odd", tmp_path / "in" / "000000.png", tmp_path / "wide.npy"))
    assert write(rows, tmp_path / "m.tar", {"size": 32}) == 0
    archive = Archive(tmp_path / "m.tar")
    assert [row["has_mask"] for row in archive.rows] == [True, False]
    assert archive.rows[1]["flags"] == ["mask_mismatch"]
    assert "50x20 px and neither square nor of the photo's shape (64x64)" in archive.record["skipped"][0]["reason"]


def test_another_size_of_the_same_shape_is_noted(tmp_path):
    Image.fromarray(photo(1, 64)[0]).save(tmp_path / "p.png")
    np.save(tmp_path / "m.npy", photo(1, 64)[1][::2, ::2])
    write([row_of("p", tmp_path / "p.png", tmp_path / "m.npy")], tmp_path / "m.tar", {"size": 64})
    assert Archive(tmp_path / "m.tar").rows[0]["flags"] == ["mask_resized"]


def wide_photo(tmp_path, crop):
    """A 96x64 photo with a square mask made by the given crop."""
    square, mask = photo(3, 96, lesion=0.1)
    picture = (
        Image.fromarray(square).resize((144, 96)) if crop == "resize" else Image.new("RGB", (144, 96), (208, 172, 148))
    )
    if crop == "square":
        picture.paste(Image.fromarray(square), (24, 0))
    picture.save(tmp_path / "p.png")
    np.save(tmp_path / "m.npy", mask)
    return row_of("p", tmp_path / "p.png", tmp_path / "m.npy")


@pytest.mark.parametrize("made", ["resize", "square"])
def test_a_mask_made_by_the_other_crop_is_said(tmp_path, made, capsys):
    row = wide_photo(tmp_path, made)
    other = {"resize": "square", "square": "resize"}[made]
    write([row], tmp_path / "right.tar", {"size": 96, "crop": made})
    write([row], tmp_path / "wrong.tar", {"size": 96, "crop": other})
    assert "crop_doubtful" not in Archive(tmp_path / "right.tar").rows[0]["flags"]
    assert "crop_doubtful" in Archive(tmp_path / "wrong.tar").rows[0]["flags"]
    assert f"masks.crop: {made}" in capsys.readouterr().err


def test_both_crops_bring_mask_and_photo_together(tmp_path):
    for crop in ("resize", "square"):
        picture = Image.open(wide_photo(tmp_path, crop)["file"])
        mask = mask_to_size(photo(3, 96, lesion=0.1)[1].astype(np.uint8), picture.size, 48, crop)
        assert explained_variance(photo_to_size(picture, 48, crop), mask) > 0.8
    whole = np.zeros((64, 96), np.uint8)  # a mask of the photo's own shape
    whole[:, :16] = RULER
    assert (mask_to_size(whole, (96, 64), 32, "square") == 0).all()
    assert (mask_to_size(whole, (96, 64), 96, "resize")[:, :16] == RULER).all()


def test_palettes_one_class_and_colours(tmp_path):
    classes = photo(1, 32)[1].astype(np.uint8)
    palette = Image.fromarray(classes, "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255, 255, 255, 255, 255, 204, 153])
    palette.save(tmp_path / "palette.png")
    palette.convert("RGB").save(tmp_path / "colours.png")
    Image.fromarray(np.where(classes == LESION, 255, 0).astype(np.uint8)).save(tmp_path / "one.png")
    assert (read_mask(tmp_path / "palette.png") == classes).all()
    named = {"#000000": 0, "#ff0000": 1, "#0000ff": 2, "#ffffff": 3, "#ffcc99": 4}
    assert (read_mask(tmp_path / "colours.png", named) == classes).all()
    one = read_mask(tmp_path / "one.png", {"0": 4, "255": 1})
    assert ((one == LESION) == (classes == LESION)).all() and set(np.unique(one)) == {LESION, SKIN}
    with pytest.raises(UserError, match="id_map"):
        read_mask(tmp_path / "one.png")
    with pytest.raises(ValueError, match="classes are 0 to 4"):
        MasksSettings(id_map={"0": 9})
    with pytest.raises(ValueError, match="neither a number nor"):
        MasksSettings(id_map={"red": 1})


def test_a_photo_like_a_bomb_is_named(tmp_path, monkeypatch):
    Image.fromarray(photo(1, 64)[0]).save(tmp_path / "p.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UserError, match="Save the photo smaller"):
        read_photo(tmp_path / "p.png")
