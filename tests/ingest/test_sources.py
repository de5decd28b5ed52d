"""`cgddi ingest fitzpatrick17k` and `folder`: tables other than DDI's, alone and beside it."""

import pytest
from cgddi.cli import main
from cgddi.core.errors import UserError
from cgddi.ingest import command
from cgddi.plan.sheets import load_sheets

from tests.ingest.tables import rows_of, save, small_ddi, write


def f17k(folder):
    hashes = [f"{i:032x}" for i in range(6)]
    table = [
        (hashes[0], "1", "psoriasis", "non-neoplastic", ""),
        (hashes[1], "4", "melanoma", "malignant", "1 Diagnostic"),
        (hashes[2], "6", "keloid", "benign", ""),
        (hashes[3], "-1", "keloid", "benign", ""),
        (hashes[4], "2", "keloid", "benign", ""),
        (hashes[5], "5", "keloid", "benign", ""),
    ]
    names = ("md5hash", "fitzpatrick_scale", "label", "three_partition_label", "qc")
    extra = {"fitzpatrick_centaur": 1, "nine_partition_label": "x", "url": "", "url_alphanum": ""}
    write(folder / "f17k.csv", [dict(zip(names, row, strict=True)) | extra for row in table])
    for i in (0, 1, 3):
        save(folder / "photos" / f"{hashes[i]}.jpg", i)
    save(folder / "photos" / f"{hashes[2]}.png", 2)
    (folder / "photos" / f"{hashes[5]}.jpg").write_text("<html>404</html>")
    return [
        "fitzpatrick17k",
        "--metadata",
        "f17k.csv",
        "--images",
        "photos",
        "--output",
        "images.csv",
        "--threads",
        "1",
    ]


def test_fitzpatrick17k(folder, capsys):
    assert main(["ingest", *f17k(folder)]) == 0
    photos = load_sheets("images.csv", "builtin:fitzpatrick17k").photos
    assert [(p.skin_tone, p.malignant, p.concept, p.cohort) for p in photos] == [
        ("light", False, "psoriasis", "f17k"),
        ("medium", True, "melanoma", "f17k"),
        ("dark", False, "keloid", "f17k"),
        ("unknown", False, "keloid", "f17k"),
    ]
    said = capsys.readouterr().out
    assert "1 rows without a photo in photos left out" in said
    assert "1 photos that cannot be read or used left out" in said


@pytest.mark.parametrize(
    ("cell", "tone"),
    [
        *zip("123456", ("light", "light", "medium", "medium", "dark", "dark"), strict=True),
        ("12", "light"),
        ("Dark", "dark"),
    ],
)
def test_skin_types_and_codes_of_a_lab(folder, cell, tone):
    args = lab(folder)
    (folder / "lab.csv").write_text((folder / "lab.csv").read_text().replace("(solar),2", f"(solar),{cell}"))
    assert main(["ingest", *args, "--write-diseases", "diseases.csv"]) == 0
    assert rows_of("images.csv")[0]["skin_tone"] == tone


def test_fitzpatrick17k_chosen_labels_and_quality(folder, capsys):
    assert main(["ingest", *f17k(folder), "--labels", "melanoma", "psoriasis", "--qc", "1 Diagnostic"]) == 0
    assert [row["disease"] for row in rows_of("images.csv")] == ["melanoma"]
    (folder / "images.csv").unlink()
    assert main(["ingest", *f17k(folder), "--labels", "keloid"]) == 0
    assert [row["disease"] for row in rows_of("images.csv")] == ["keloid", "keloid"]
    assert main(["ingest", *f17k(folder), "--labels", "melanomas"]) == 2
    assert "'melanomas'" in capsys.readouterr().err


def test_fitzpatrick17k_of_an_unknown_partition(folder, capsys):
    args = f17k(folder)
    text = (folder / "f17k.csv").read_text().replace("non-neoplastic", "odd")
    (folder / "f17k.csv").write_text(text)
    assert main(["ingest", *args]) == 2
    assert "row 2, column three_partition_label" in capsys.readouterr().err


def lab(folder):
    rows = [
        {"ID": "p1-a", "Photo": "one.png", "Dx": "Lentigo (solar)", "FST": 2, "Patient": "p1", "Cancer": "no"},
        {"ID": "p1-b", "Photo": "sub/two.png", "Dx": "Naevus/common", "FST": 6, "Patient": "p1", "Cancer": ""},
    ]
    write(folder / "lab.csv", rows)
    save(folder / "photos" / "one.png", 1)
    save(folder / "photos" / "sub" / "two.png", 2)
    names = ["image_id=ID", "file=Photo", "disease=Dx", "skin_tone=FST", "group=Patient", "malignant=Cancer"]
    columns = [part for name in names for part in ("--column", name)]
    return ["folder", "--table", "lab.csv", "--images", "photos", "--output", "images.csv", "--threads", "1", *columns]


def test_a_lab_folder_with_a_disease_sheet_of_its_own(folder):
    assert main(["ingest", *lab(folder), "--cohort", "our-clinic-2026-12", "--write-diseases", "diseases.csv"]) == 0
    sheets = load_sheets("images.csv", "diseases.csv")
    first, second = sheets.photos
    assert (first.image_id, first.concept, first.skin_tone, first.malignant) == (
        "p1-a",
        "lentigo-solar",
        "light",
        False,
    )
    assert (second.file, second.concept, second.malignant) == ("photos/sub/two.png", "naevus-common", None)
    assert {p.group for p in sheets.photos} == {"p1"} and {p.cohort for p in sheets.photos} == {"our-clinic-2026-12"}
    assert sheets.concepts["lentigo-solar"].name == "Lentigo (solar)"


def test_a_lab_folder_needs_a_disease_sheet_and_real_columns(folder):
    with pytest.raises(UserError, match="--write-diseases"):
        command.main(lab(folder))
    with pytest.raises(UserError, match="the table has ID"):
        command.main([*lab(folder), "--write-diseases", "d.csv", "--column", "mask=Masks"])
    with pytest.raises(UserError, match="SHEET=TABLE"):
        command.main([*lab(folder), "--write-diseases", "d.csv", "--column", "mask"])


def test_a_lab_cohort_beside_ddi_with_one_disease_sheet_for_both(folder, capsys):
    assert main(["ingest", *small_ddi(folder), "--write-diseases", "diseases.csv"]) == 0
    assert main(["ingest", *lab(folder), "--append", "--diseases", "builtin:fitzpatrick17k"]) == 2
    assert "is not in the disease sheet" in capsys.readouterr().err
    assert main(["ingest", *lab(folder), "--append", "--write-diseases", "diseases.csv"]) == 0
    sheets = load_sheets("images.csv", "diseases.csv")
    assert list(sheets.concepts) == ["verruca-vulgaris", "lentigo-solar", "naevus-common"]
    assert [p.cohort for p in sheets.photos] == ["ddi"] * 3 + ["lab"] * 2


def test_strangers_of_earlier_rows_are_told(folder, capsys):
    assert main(["ingest", *small_ddi(folder)]) == 0
    assert main(["ingest", *lab(folder), "--append", "--write-diseases", "new.csv"]) == 0
    assert "1 disease names of earlier rows are not in this disease sheet, e.g. wart" in capsys.readouterr().out


def test_patients_joined_by_a_copy_become_one_group(folder):
    args = lab(folder)
    text = (folder / "lab.csv").read_text().replace("6,p1", "6,p2")
    (folder / "lab.csv").write_text(text + "p3,three.png,Scar,3,p2,no\n")
    save(folder / "photos" / "three.png", 1)
    assert main(["ingest", *args, "--write-diseases", "diseases.csv"]) == 0
    assert [row["group"] for row in rows_of("images.csv")] == ["p1", "p1", "p1"]


def test_nothing_left_to_write(folder):
    args = f17k(folder)
    for path in (folder / "photos").iterdir():
        path.unlink()
    with pytest.raises(UserError, match="no row is left"):
        command.main(args)
