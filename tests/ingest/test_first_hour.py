"""A lab's first hour: its masks, sheets, photos and copies as they are, through `cgddi ingest` and `cgddi check`."""

import json
import os
import shutil

import numpy as np
import pytest
import yaml
from cgddi.cli import main
from cgddi.plan.sheets import load_sheets
from PIL import Image, ImageDraw

from tests.ingest.tables import picture, rows_of, write

SIDE = (96, 72)
MASKS = {"X.png": {}, "X_mask.png": {}, "x_SEGMENTATION.png": {}, "X_lesion.bmp": {}, "mask_X.tif": {}, "X.png.npy": {}}


def photo(seed, size=SIDE, where=(30, 24)):
    """Block noise as skin, with a dark lesion of 24 px off the middle."""
    image = Image.fromarray(picture(seed, (size[1], size[0]))).point(lambda v: 150 + v // 4)
    ImageDraw.Draw(image).ellipse([*where, where[0] + 24, where[1] + 24], fill=(70, 30, 20))
    return image


def lesion(size=SIDE, where=(30, 24), skin=0, spot=255):
    mask = Image.new("L", size, skin)
    ImageDraw.Draw(mask).ellipse([*where, where[0] + 24, where[1] + 24], fill=spot)
    return mask


def lab(folder, count=6, **changes):
    """A lab's folder: photos, and a table with tones as typed; arguments of `cgddi ingest`."""
    os.makedirs(folder / "photos", exist_ok=True)
    tones = ["I", "ii", "3.0", "IV", "V-VI", ""]
    rows = []
    for i in range(count):
        photo(i).save(folder / f"photos/IMG_{i}.jpg", quality=95)
        row = {"file": f"IMG_{i}.jpg", "disease": "nevus", "skin_tone": tones[i % 6], "malignant": "no"}
        rows.append(row | {key: values[i] for key, values in changes.items()})
    write(folder / "lab.csv", rows)
    args = ["ingest", "folder", "--table", "lab.csv", "--images", "photos", "--output", "images.csv", "--threads", "1"]
    return [*args, "--write-diseases", "diseases.csv"]


def save_mask(mask, path):
    os.makedirs(path.parent, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, np.asarray(mask))
    else:
        mask.save(path)


def check(*options):
    return main(["check", "--images", "images.csv", "--diseases", "diseases.csv", "--threads", "1", *options])


# ---- masks: names, formats, values


@pytest.mark.parametrize("name", MASKS)
def test_masks_by_the_names_that_labs_give_them(folder, name):
    args = lab(folder, 3)
    for i in range(3):
        save_mask(lesion(), folder / "masks" / name.replace("X", f"IMG_{i}").replace("x", f"img_{i}"))
    assert main([*args, "--masks", "masks"]) == 0
    masks = [row["mask"] for row in rows_of("images.csv")]
    assert len(set(masks)) == 3 and all(f"img_{i}" in mask.lower() for i, mask in enumerate(masks))


def test_masks_as_ph2_and_beside_the_photos(folder):
    args = lab(folder, 2)
    for i in range(2):
        save_mask(lesion(), folder / f"ph2/IMG_{i}/IMG_{i}_lesion/IMG_{i}_lesion.bmp")
        save_mask(lesion(), folder / f"photos/IMG_{i}_mask.png")
    for place, end in (("ph2", "_lesion.bmp"), ("photos", "_mask.png")):
        assert main([*args, "--masks", place, "--replace"]) == 0
        assert [row["mask"].endswith(f"IMG_{i}{end}") for i, row in enumerate(rows_of("images.csv"))] == [True, True]


def test_no_mask_that_fits_is_an_error_that_lists_what_was_found(folder, capsys):
    args = lab(folder, 2)
    save_mask(lesion(), folder / "masks/patient7_left.png")
    (folder / "masks/notes.txt").write_text("x")
    assert main([*args, "--masks", "masks"]) == 2
    said = capsys.readouterr().err
    assert "none of 2 photos" in said and "1 .png" in said and "patient7_left.png" in said and "IMG_0_mask.png" in said
    assert not (folder / "images.csv").exists()


def test_two_masks_of_one_photo_are_a_problem(folder, capsys):
    args = lab(folder, 1)
    for name in ("IMG_0_mask.png", "IMG_0_seg.png"):
        save_mask(lesion(), folder / "masks" / name)
    assert main([*args, "--masks", "masks"]) == 2 and "2 mask files fit this photo" in capsys.readouterr().err


def _palette(mask):
    indexed = mask.point(lambda v: 1 if v else 0).convert("P")
    indexed.putpalette([0, 0, 0, 255, 0, 0])
    return indexed


KINDS = {
    "0 and 255": (lambda: lesion(), {"0": 4, "255": 1}),
    "0 and 1": (lambda: lesion(spot=1), {"0": 4, "1": 1}),
    "inverted": (lambda: lesion(skin=255, spot=0), {"0": 1, "255": 4}),
    "palette": (lambda: _palette(lesion()), {"0": 4, "1": 1}),
    "colours": (
        lambda: lesion().convert("RGB").point([0] * 256 + [*range(256)] + [0] * 256),
        {"#000000": 4, "#00ff00": 1},
    ),
    "one bit": (lambda: lesion().convert("1"), {"0": 4, "1": 1}),
    "jpeg": (lambda: lesion(), {"0": 4, "255": 1}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_id_map_is_proposed_taken_by_one_option_and_then_nothing_stands_against_it(folder, capsys, kind):
    make, ids = KINDS[kind]
    args = lab(folder, 3)
    for i in range(3):
        save_mask(make(), folder / f"masks/IMG_{i}.{'jpg' if kind == 'jpeg' else 'png'}")
    (folder / "config.yaml").write_text("images: images.csv # ours\ndiseases: diseases.csv\n")
    assert main([*args, "--masks", "masks"]) == 0
    said = capsys.readouterr().out
    assert f"cohorts.lab.masks.id_map: {json.dumps(ids)}" in said and "--take-id-map" in said
    assert check() == 2 and f"id_map: {json.dumps(ids)}" in capsys.readouterr().err
    for _ in range(2):  # and again: nothing more
        assert main([*args, "--masks", "masks", "--take-id-map", "config.yaml"]) == 0
    text = (folder / "config.yaml").read_text()
    assert text.startswith("images: images.csv # ours\n") and text.count("cohorts") == 1
    assert yaml.safe_load(text)["cohorts"]["lab"]["masks"]["id_map"] == ids
    assert check("--mask-ids", json.dumps(ids)) == 0


def test_planning_finds_it_too(folder):
    from cgddi.core.errors import InvalidInput
    from cgddi.plan.config import load_config
    from cgddi.plan.jobs import Plan

    args = lab(folder, 3)
    for i in range(3):
        save_mask(lesion(spot=1), folder / f"masks/IMG_{i}.png")
    assert main([*args, "--masks", "masks"]) == 0
    (folder / "config.yaml").write_text("results: r\nimages: images.csv\ndiseases: diseases.csv\n")
    with pytest.raises(InvalidInput, match=r'cohorts.lab.masks.id_map: \{"0": 4, "1": 1\}'):
        Plan(load_config("config.yaml"), main=True)


@pytest.mark.parametrize(
    ("before", "cohorts"),
    [
        ("cohorts: {}\nseed: 1\n", {}),
        ("seed: 1\ncohorts: # ours\n    other: {role: evaluation}\n", {"other": {"role": "evaluation"}}),
        ("seed: 1", {}),
    ],
)
def test_a_taken_map_changes_nothing_else_of_a_config(folder, before, cohorts):
    from cgddi.ingest.take_map import take

    (folder / "c.yaml").write_text(before)
    take("c.yaml", "lab", {"0": 4, "255": 1})
    values = yaml.safe_load((folder / "c.yaml").read_text())
    assert values == {"seed": 1, "cohorts": cohorts | {"lab": {"masks": {"id_map": {"0": 4, "255": 1}}}}}


# ---- photo and mask together


def test_a_mask_drawn_on_the_unturned_pixels(folder, capsys):
    args = lab(folder, 1)
    turned = photo(0)
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(folder / "photos/IMG_0.jpg", exif=exif)
    save_mask(lesion(skin=4, spot=1), folder / "masks/IMG_0.png")
    assert main([*args, "--masks", "masks"]) == 2
    said = capsys.readouterr().err
    assert "is 96 x 72 pixels, the photo is 72 x 96" in said and "Turn the mask by 90 degrees clockwise" in said


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: lesion(skin=4, spot=1, where=(2, 2)), "better mirrored left to right"),
        (lambda: lesion(skin=4, spot=1, where=(70, 46)), "better mirrored top to bottom"),
        (lambda: lesion(skin=4, spot=1, where=(2, 46)), "better turned by 180 degrees"),
    ],
)
def test_mirrored_and_turned_masks_are_flagged(folder, capsys, make, words):
    args = lab(folder, 1)
    photo(0, where=(70, 2)).save(folder / "photos/IMG_0.jpg", quality=95)
    save_mask(make(), folder / "masks/IMG_0.png")
    assert main([*args, "--masks", "masks"]) == 0 and words in capsys.readouterr().out
    assert check() == 0 and "warning: images.csv, row 2, column mask" in capsys.readouterr().out


def test_the_mask_of_another_photo_is_flagged(folder, capsys):
    args = lab(folder, 1)
    photo(0, where=(36, 24)).save(folder / "photos/IMG_0.jpg", quality=95)
    ring = Image.new("L", SIDE, 1)  # the same any way round, and nowhere on the lesion
    ring.paste(4, (6, 6, 90, 66))
    save_mask(ring, folder / "masks/IMG_0.png")
    assert main([*args, "--masks", "masks"]) == 0
    assert "fits its photo worse than a plain disc would" in capsys.readouterr().out


def test_a_mask_that_fits_is_not_flagged(folder, capsys):
    args = lab(folder, 1)
    save_mask(lesion(skin=4, spot=1), folder / "masks/IMG_0.png")
    assert main([*args, "--masks", "masks"]) == 0 and "warning" not in capsys.readouterr().out


# ---- photos


def _p3():
    """Display P3 as a matrix profile: primaries of the standard, adapted to D50 (ICC), gamma 2.2."""
    import struct

    def fixed(value):
        return struct.pack(">i", round(value * 65536))

    def xyz(*values):
        return b"XYZ \0\0\0\0" + b"".join(map(fixed, values))

    text = b"Display P3\0"
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + b"\0" * 79,
        b"wtpt": xyz(0.9642, 1, 0.8249),
        b"rXYZ": xyz(0.51512, 0.2412, -0.00105),
        b"gXYZ": xyz(0.29198, 0.69225, 0.04189),
        b"bXYZ": xyz(0.1571, 0.06657, 0.78407),
        **dict.fromkeys(
            (b"rTRC", b"gTRC", b"bTRC"), b"curv\0\0\0\0" + struct.pack(">IH", 1, round(2.2 * 256)) + b"\0\0"
        ),
    }
    offset, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, data in tags.items():
        data += b"\0" * (-len(data) % 4)
        table += name + struct.pack(">II", offset + len(body), len(data))
        body += data
    size = offset + len(body)
    head = struct.pack(">I4sI4s4s4s12s4s4sIIIQI12s4s44s", size, b"lcms", 0x02100000, b"mntr", b"RGB ", b"XYZ ", b"\0" * 12,
        b"acsp", b"\0" * 4, 0, 0, 0, 0, 0, fixed(0.9642) + fixed(1) + fixed(0.8249), b"\0" * 4, b"\0" * 44)  # fmt: skip
    return head[:128] + struct.pack(">I", len(tags)) + table + body


def test_display_p3_becomes_srgb(tmp_path):
    from cgddi.core.images import read_photo

    Image.new("RGB", (40, 40), (200, 120, 100)).save(tmp_path / "p3.png", icc_profile=_p3())
    pixels, notes = read_photo(tmp_path / "p3.png")
    # By hand: linear = (v/255)^2.2; P3 -> XYZ -> sRGB with the standards' matrices (D65), and sRGB's curve back.
    linear = (np.array([200, 120, 100]) / 255) ** 2.2
    p3 = np.array([[0.486571, 0.265668, 0.198217], [0.228975, 0.691739, 0.079287], [0, 0.045113, 1.043944]])
    srgb = np.array(
        [[3.240970, -1.537383, -0.498611], [-0.969244, 1.875968, 0.041555], [0.055630, -0.203977, 1.056972]]
    )
    wanted = srgb @ p3 @ linear
    wanted = 255 * np.where(wanted > 0.0031308, 1.055 * wanted ** (1 / 2.4) - 0.055, 12.92 * wanted)
    assert notes == ["converted_from_profile"] and np.abs(np.asarray(pixels)[20, 20] - wanted).max() <= 2
    assert abs(int(np.asarray(pixels)[20, 20, 0]) - 200) > 5


@pytest.mark.parametrize("top", [1023, 4095, 16383, 65535])
def test_whole_numbers_are_scaled_by_the_bits_they_have(tmp_path, top):
    from cgddi.core.images import read_photo

    grey = np.asarray(photo(3).convert("L"), np.float64) / 255
    grey /= grey.max()
    Image.fromarray((grey * top).round().astype(np.uint16)).save(tmp_path / "p.tif")
    assert np.abs(np.asarray(read_photo(tmp_path / "p.tif")[0])[..., 0] - grey * 255).max() <= 1


def test_fractions_of_a_float_tiff(tmp_path):
    from cgddi.core.errors import UserError
    from cgddi.core.images import read_photo

    grey = np.asarray(photo(3).convert("L"), np.float32) / 255
    Image.fromarray(grey).save(tmp_path / "p.tif")
    assert np.abs(np.asarray(read_photo(tmp_path / "p.tif")[0])[..., 0] - grey * 255).max() <= 1
    Image.fromarray(grey - 0.5).save(tmp_path / "q.tif")
    with pytest.raises(UserError, match="below 0"):
        read_photo(tmp_path / "q.tif")


BAD = {
    "HEIC": (lambda p: p.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"), "sips -s format jpeg"),
    "black": (lambda p: Image.new("RGB", SIDE).save(p), "black or nearly so"),
    "nearly black": (lambda p: photo(0).point(lambda v: v // 16).save(p), "black or nearly so"),
    "flat": (lambda p: Image.new("RGB", SIDE, (200, 150, 120)).save(p), "one colour only"),
    "panorama": (lambda p: photo(0, (400, 80)).save(p), "panorama of 400 x 80"),
    "cut short": (lambda p: (photo(0).save(p), p.write_bytes(p.read_bytes()[:900])), "cannot be read as an image"),
}


@pytest.mark.parametrize("kind", BAD)
def test_photos_that_cannot_be_used_are_refused_with_a_remedy_or_left_out(folder, capsys, kind):
    make, words = BAD[kind]
    args = lab(folder, 3)
    make(folder / "photos/IMG_1.jpg")
    assert main(args) == 2 and words in capsys.readouterr().err
    assert main([*args, "--leave-out"]) == 0
    assert [row["image_id"] for row in rows_of("images.csv")] == ["IMG_0", "IMG_2"]
    assert words in capsys.readouterr().out


def test_what_labs_have_is_taken(folder):
    """CMYK, grey, 150 px, and a photo that EXIF turns."""
    args = lab(folder, 4)
    photo(0).convert("CMYK").save(folder / "photos/IMG_0.jpg")
    photo(1).convert("L").save(folder / "photos/IMG_1.jpg")
    photo(2, (150, 150)).save(folder / "photos/IMG_2.jpg")
    exif = Image.Exif()
    exif[0x0112] = 3
    photo(3).save(folder / "photos/IMG_3.jpg", exif=exif)
    assert main(args) == 0 and check() == 0


# ---- copies

COPIES = {
    "mirrored": lambda p: p.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda p: p.transpose(Image.Transpose.ROTATE_90),
    "cropped in the middle": lambda p: p.crop((38, 29, 442, 331)),
    "cropped at a side": lambda p: p.crop((0, 0, 403, 360)),
    "cropped at a corner, mirrored, darker": lambda p: (
        p.crop((77, 58, 480, 360)).transpose(0).point(lambda v: v * 4 // 5)
    ),
}


def scene(seed):
    """A photo-like picture: spots of all sizes."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (480, 360), (205, 160, 140))
    draw = ImageDraw.Draw(image)
    for _ in range(400):
        x, y, r = rng.uniform(0, 480), rng.uniform(0, 360), rng.uniform(2, 14)
        draw.ellipse([x - r, y - r, x + r, y + r], fill=tuple(int(v) for v in rng.integers(90, 220, 3)))
    return image


@pytest.mark.parametrize("copy", COPIES)
def test_copies_are_one_group_and_stay_together_in_the_split(folder, capsys, copy):
    from cgddi.plan.splits import SplitSettings, assign

    args = lab(folder, 10)
    for i in range(10):
        scene(i).save(folder / f"photos/IMG_{i}.jpg", quality=90)
    COPIES[copy](scene(2)).save(folder / "photos/IMG_9.jpg", quality=60)
    assert main(args) == 0
    assert "one picture: IMG_2, IMG_9 -> group IMG_2" in capsys.readouterr().out
    photos = load_sheets("images.csv", "diseases.csv").photos
    assert [p.image_id for p in photos if p.group] == ["IMG_2", "IMG_9"]
    for seed in range(20):
        roles = assign(photos, "development", SplitSettings(seed=seed, test=0.5))
        assert roles.get("IMG_2") == roles.get("IMG_9") or "IMG_9" not in roles


def test_lists_of_known_copies_and_wrong_labels(folder, capsys):
    args = lab(folder, 6)
    write(folder / "pairs.csv", [{"first": "photos/IMG_0.jpg", "second": "IMG_3", "similarity": 0.9}])
    write(folder / "groups.csv", [{"image": f"img_{i}.JPG", "cluster": 1 + i // 6} for i in (3, 4, 5)])
    wrong = [
        {"image_id": "IMG_1", "disease": "melanoma"},
        {"image_id": "IMG_2", "disease": ""},
        {"image_id": "x", "disease": ""},
    ]
    write(folder / "wrong.csv", wrong)
    assert main([*args, "--known-duplicates", "pairs.csv", "groups.csv", "--label-errors", "wrong.csv"]) == 0
    rows = {row["image_id"]: row for row in rows_of("images.csv")}
    assert {i: row["group"] for i, row in rows.items() if row["group"]} == dict.fromkeys(
        ["IMG_0", "IMG_3", "IMG_4", "IMG_5"], "IMG_0"
    )
    assert rows["IMG_1"]["disease"] == "melanoma" and "IMG_2" not in rows
    said = capsys.readouterr().out
    assert "1 labels corrected, 1 photos of wrong label left out" in said and "1 rows name no photo" in said


# ---- tables


def test_sheets_as_excel_saves_them(folder):
    args = lab(folder, 6)
    rows = rows_of("lab.csv")
    told = [(row["file"], row["skin_tone"].replace(".", ",")) for row in rows]
    lines = ["sep=;", "file;disease;skin_tone;malignant;;", *(f"{file};Nävus;{tone};FALSCH;;" for file, tone in told)]
    (folder / "lab.csv").write_bytes("\r\n".join([*lines, ";;;;;", ""]).encode("cp1252"))
    assert main(args) == 0
    photos = load_sheets("images.csv", "diseases.csv").photos
    assert [p.skin_tone for p in photos] == ["light", "light", "medium", "medium", "dark", "unknown"]
    assert {p.disease for p in photos} == {"Nävus"} and {p.concept for p in photos} == {"navus"}


def test_a_letter_that_looks_latin_is_refused(folder, capsys):
    args = lab(folder, 3, disease=["melanoma", "melan\u043ema", "nevus"])
    assert main(args) == 2
    said = capsys.readouterr().err
    assert "CYRILLIC SMALL LETTER O" in said and "Type the name again" in said
    assert not (folder / "diseases.csv").exists() and not (folder / "images.csv").exists()


def test_what_a_person_typed_into_the_sheets_stays(folder, capsys):
    args = lab(folder, 3)
    assert main(args) == 0
    for name, old, new in (
        ("images.csv", "light", "dark"),
        ("diseases.csv", "nevus,nevus,nevus,<nevus>", "nevus,mole,mole,<m>"),
    ):
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new))
    edited = (folder / "images.csv").read_bytes(), (folder / "diseases.csv").read_bytes()
    assert main(args) == 2 and "2 rows say something else" in capsys.readouterr().err
    assert ((folder / "images.csv").read_bytes(), (folder / "diseases.csv").read_bytes()) == edited
    assert main([*args, "--append"]) == 2  # the table says another tone: a clash, not a loss
    assert ((folder / "images.csv").read_bytes(), (folder / "diseases.csv").read_bytes()) == edited
    assert main([*args, "--replace"]) == 0 and (folder / "diseases.csv").read_bytes() == edited[1]


F17K = {
    "label": "psoriasis",
    "nine_partition_label": "inflammatory",
    "three_partition_label": "non-neoplastic",
    "qc": "",
}


@pytest.mark.parametrize("form", ["2022", "2021", "C", "C by map"])
def test_fitzpatrick17k_in_its_forms_and_namings(folder, form):
    names = [f"{i:02x}" + "ab" * 15 for i in range(4)]
    rows = [{"md5hash": name, **F17K, "url": "", "url_alphanum": f"httpsite{i}jpg.jpg"} for i, name in enumerate(names)]
    tone = "fitzpatrick_scale" if form == "2022" else "fitzpatrick"
    rows = [row | {tone: value} for row, value in zip(rows, ("1", "4", "6", "-1"), strict=True)]
    files = [f"{names[0].upper()}.jpg", f"{names[1]}.JPG", "httpsite2jpg.jpg", f"{names[3]}.png"]
    if form.startswith("C"):
        rows = [
            row | {"orig_img_name": f"{row['md5hash']}.jpg", "new_img_name": f"ps_f{i}.jpg"}
            for i, row in enumerate(rows)
        ]
        files = [f"ps_653/ps_f{i}.jpg" for i in range(3)] + [f"{names[3]}.jpg"]
    write(folder / "f.csv", rows)
    for i, file in enumerate(files):
        (folder / "p" / file).parent.mkdir(parents=True, exist_ok=True)
        photo(i).save(folder / "p" / file, "JPEG" if not file.endswith("png") else "PNG")
    source = ["fitzpatrick17k", "--metadata", "f.csv"]
    if form == "C by map":
        source = ["folder", "--map", "fitzpatrick17k-c", "--table", "f.csv", "--diseases", "builtin:fitzpatrick17k"]
    assert main(["ingest", *source, "--images", "p", "--output", "images.csv", "--threads", "1"]) == 0
    photos = load_sheets("images.csv", "builtin:fitzpatrick17k").photos
    assert [p.image_id for p in photos] == names and [p.malignant for p in photos] == [False] * 4
    assert [p.skin_tone for p in photos] == ["light", "medium", "dark", "unknown"]


# The headers are those of the published files.
PAD = (
    "patient_id,lesion_id,smoke,drink,background_father,background_mother,age,pesticide,gender,skin_cancer_history,cancer_history,"
    "has_piped_water,has_sewage_system,fitspatrick,region,diameter_1,diameter_2,diagnostic,itch,grew,hurt,changed,bleed,elevation,"
    "img_id,biopsed\n"
    "PAT_1516,1765,,,,,8,,,,,,,,ARM,,,NEV,FALSE,FALSE,FALSE,FALSE,FALSE,FALSE,PAT_1516_1765_530.png,FALSE\n"
    "PAT_46,881,FALSE,FALSE,POMERANIA,POMERANIA,55,FALSE,FEMALE,TRUE,TRUE,TRUE,TRUE,3.0,NECK,6.0,5.0,BCC,TRUE,TRUE,FALSE,TRUE,TRUE,"
    "TRUE,PAT_46_881_939.png,TRUE\n"
)
SCIN_CASES = (
    "case_id,source,release,year,age_group,sex_at_birth,fitzpatrick_skin_type,image_1_path,image_2_path,image_3_path\n"
    "-1000600354148496558,SCIN,1.0.0,2023,AGE_30_TO_39,FEMALE,FST6,dataset/images/-320574.png,dataset/images/-276911.png,\n"
    "55,SCIN,1.0.0,2023,AGE_UNKNOWN,OTHER_OR_UNSPECIFIED,NONE_SELECTED,dataset/images/88.png,,\n"
    "56,SCIN,1.0.0,2023,AGE_UNKNOWN,MALE,,dataset/images/89.png,,\n"
)
SCIN_LABELS = (
    "case_id,dermatologist_gradable_for_skin_condition_1,dermatologist_skin_condition_on_label_name,weighted_skin_condition_label,"
    "dermatologist_fitzpatrick_skin_type_label_1,dermatologist_fitzpatrick_skin_type_label_2,"
    "dermatologist_fitzpatrick_skin_type_label_3,monk_skin_tone_label_us\n"
    "-1000600354148496558,YES,\"['Inflicted skin lesions', 'Eczema']\",\"{'Inflicted skin lesions': 0.41, 'Eczema': 0.59}\","
    "FST2,,,3\n"
    "55,YES,['Tinea'],{'Tinea': 1.0},,,,\n"
    "56,NO,[],{},,,,\n"
)
PASSION = (
    "subject_id,country,age,sex,fitzpatrick,body_loc,impetig,conditions_PASSION\n"
    "AA00970344,Madagascar,4,m,5,head,0,Eczema\nAA009703,Guinea,9,f,6,arm,1,Scabies\n"
)
MILK = (
    "lesion_id,image_type,isic_id,attribution,copyright_license,image_manipulation,age_approx,sex,skin_tone_class,site\n"
    "IL_0000652,clinical: close-up,ISIC_8149219,A,CC-BY-NC,altered,60,male,3.0,trunk\n"
    "IL_0000652,dermoscopic,ISIC_4671410,A,CC-BY-NC,altered,60,male,3.0,trunk\n"
    "IL_0003176,clinical: close-up,ISIC_2776911,A,CC-BY-NC,altered,75,female,,foot\n"
)
MILK_TRUTH = (
    "lesion_id,AKIEC,BCC,BEN_OTH,BKL,DF,INF,MAL_OTH,MEL,NV,SCCKA,VASC\n"
    "IL_0000652,0.0,1.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0\nIL_0003176,0.0,0.0,0.0,0.0,0.0,0.0,0.0,0.0,1.0,0.0,0.0\n"
)
MAPS = {
    "pad-ufes-20": (
        (PAD,),
        ["imgs_part_1/PAT_1516_1765_530.png", "imgs_part_3/PAT_46_881_939.png"],
        [("nevus", "unknown", False, "PAT_1516"), ("basal cell carcinoma", "medium", True, "PAT_46")],
    ),
    "scin": (
        (SCIN_CASES, SCIN_LABELS),
        ["dataset/images/-320574.png", "dataset/images/-276911.png", "dataset/images/88.png", "dataset/images/89.png"],
        [("Eczema", "light", None, "-1000600354148496558")] * 2 + [("Tinea", "unknown", None, "55")],
    ),
    "passion": (
        (PASSION,),
        ["AA00970344_1.jpg", "AA00970344_2.jpg", "AA009703_1.jpg"],
        [("Eczema", "dark", False, "AA00970344")] * 2 + [("Scabies", "dark", False, "AA009703")],
    ),
    "milk10k": (
        (MILK, MILK_TRUTH),
        ["IL_0000652/ISIC_8149219.jpg", "IL_0000652/ISIC_4671410.jpg", "IL_0003176/ISIC_2776911.jpg"],
        [("basal cell carcinoma", "medium", True, "IL_0000652"), ("nevus", "unknown", False, "IL_0003176")],
    ),
}


@pytest.mark.parametrize("name", MAPS)
def test_column_maps_on_the_layouts_of_public_sets(folder, capsys, name):
    tables, files, wanted = MAPS[name]
    for number, text in enumerate(tables):
        (folder / f"{number}.csv").write_text(text)
    for number, file in enumerate(files):
        (folder / "p" / file).parent.mkdir(parents=True, exist_ok=True)
        photo(number).save(folder / "p" / file)
    also = ["--also", "1.csv"] if len(tables) > 1 else []
    args = ["ingest", "folder", "--map", name, "--table", "0.csv", *also, "--images", "p", "--output", "images.csv"]
    assert main([*args, "--write-diseases", "diseases.csv", "--threads", "1"]) == 0
    photos = load_sheets("images.csv", "diseases.csv").photos
    assert [(p.disease, p.skin_tone, p.malignant, p.group) for p in photos] == wanted
    assert "licence: " in capsys.readouterr().out
    if also:
        shutil.rmtree(folder / "p")
        os.mkdir(folder / "p")
        assert main(args[: args.index("--also")] + args[args.index("--images") :] + ["--write-diseases", "d.csv"]) == 2
        assert "--also" in capsys.readouterr().err
