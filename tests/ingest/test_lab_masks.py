"""A lab's masks as they are, through `cgddi ingest` and `cgddi check`: names, formats, values, and how they fit the photos."""

import json

import pytest
import yaml
from cgddi.cli import main
from PIL import Image

from tests.ingest.lab import SIDE, check, lab, lesion, photo, save_mask
from tests.ingest.tables import rows_of

MASKS = {"X.png": {}, "X_mask.png": {}, "x_SEGMENTATION.png": {}, "X_lesion.bmp": {}, "mask_X.tif": {}, "X.png.npy": {}}

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


def test_copies_of_a_mask_are_one(folder):
    args = lab(folder, 1)
    for name in ("5%/train", "10%/train"):  # as FEDD publishes DDI's
        save_mask(lesion(), folder / "masks" / name / "IMG_0.npy")
    assert main([*args, "--masks", "masks"]) == 0 and rows_of("images.csv")[0]["mask"] == "masks/10%/train/IMG_0.npy"


def test_two_masks_of_one_photo_are_a_problem(folder, capsys):
    args = lab(folder, 1)
    for place, name in enumerate(("IMG_0_mask.png", "IMG_0_seg.png")):
        save_mask(lesion(where=(30 + place, 24)), folder / "masks" / name)
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
    "floats": (lambda: lesion(spot=1).convert("F"), {"0": 4, "1": 1}),
}
ENDINGS = {"jpeg": "jpg", "floats": "npy"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_id_map_is_proposed_taken_by_one_option_and_then_nothing_stands_against_it(folder, capsys, kind):
    make, ids = KINDS[kind]
    args = lab(folder, 3)
    for i in range(3):
        save_mask(make(), folder / f"masks/IMG_{i}.{ENDINGS.get(kind, 'png')}")
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
