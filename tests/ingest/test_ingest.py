"""`cgddi ingest ddi`: a table to an image sheet, appended, grouped and summed up."""

from collections import Counter

import numpy as np
import pytest
from cgddi.cli import main
from cgddi.core.errors import InvalidInput
from cgddi.core.images import encode_png
from cgddi.ingest import command
from cgddi.ingest.diseases import read_diseases
from cgddi.ingest.names import slugify
from cgddi.plan.sheets import check_files, load_sheets

from tests.ingest.ddi_shaped import MALIGNANT, MASKED, TONES, write_ddi_shaped
from tests.ingest.tables import rows_of, save, small_ddi, write


def test_the_builtin_ddi_sheet_joins_78_names_into_65_concepts():
    known, problems = read_diseases("builtin:ddi")
    concepts = {concept.slug: concept for concept in known.values()}
    assert not problems and len(known) == 78 and len(concepts) == 65 == len({c.token for c in concepts.values()})
    sizes = Counter(concept.name for concept in known.values())
    assert {name: n for name, n in sizes.items() if n > 1} == {
        "melanoma": 4,
        "basal cell carcinoma": 3,
        "squamous cell carcinoma": 3,
        "cutaneous T-cell lymphoma": 2,
        "seborrheic keratosis": 2,
        "nevus": 2,
        "verruca vulgaris": 2,
        "benign keratosis": 2,
        "spindle cell nevus of Reed": 2,
    }
    joined = {
        "melanoma": "melanoma-in-situ melanoma-acral-lentiginous nodular-melanoma-(nm) melanoma",
        "basal cell carcinoma": "basal-cell-carcinoma basal-cell-carcinoma-superficial basal-cell-carcinoma-nodular",
        "squamous cell carcinoma": (
            "squamous-cell-carcinoma squamous-cell-carcinoma-in-situ squamous-cell-carcinoma-keratoacanthoma"
        ),
        "cutaneous T-cell lymphoma": "mycosis-fungoides subcutaneous-t-cell-lymphoma",
        "seborrheic keratosis": "seborrheic-keratosis seborrheic-keratosis-irritated",
        "nevus": "melanocytic-nevi dysplastic-nevus",
        "verruca vulgaris": "verruca-vulgaris wart",
        "benign keratosis": "benign-keratosis inverted-follicular-keratosis",
        "spindle cell nevus of Reed": "atypical-spindle-cell-nevus-of-reed pigmented-spindle-cell-nevus-of-reed",
        "scleroderma/morphea": "morphea",
        "eczema/atopic dermatitis": "eczema-spongiotic-dermatitis",
        "traumatic injury": "abrasions-ulcerations-and-physical-injuries",
        "condyloma acuminatum": "condyloma-accuminatum",
    }
    for name, raws in joined.items():
        assert {raw for raw, concept in known.items() if concept.name == name} == set(raws.split())
    assert known["eczema-spongiotic-dermatitis"].slug == "eczema-atopic-dermatitis"
    for kept in ("acne-cystic", "focal-acral-hyperkeratosis"):
        assert known[kept].name == kept
    assert known["graft-vs-host-disease"].name == "graft-vs-host disease"
    for raw, concept in known.items():
        assert concept.slug == slugify(concept.name), raw


def test_the_builtin_fitzpatrick17k_sheet_is_one_to_one():
    known, problems = read_diseases("builtin:fitzpatrick17k")
    assert not problems and len(known) == 114 == len({c.slug for c in known.values()})
    assert all(raw == concept.name for raw, concept in known.items())


@pytest.mark.parametrize("variant", ["malignant", "malignancy(malig=1)"])
def test_ddi_at_full_size_in_both_forms(folder, capsys, variant):
    write_ddi_shaped("data", photos=True, variant=variant)
    args = ["--metadata", "data/ddi_metadata.csv", "--images", "data/images", "--masks", "data/masks", "--threads", "1"]
    assert main(["ingest", "ddi", *args, "--output", "config/images.csv"]) == 0
    sheets = load_sheets("config/images.csv", "builtin:ddi")
    photos = sheets.photos
    assert len(photos) == 656 and len(sheets.concepts) == 65 and len({p.disease for p in photos}) == 78
    short = {"light": "12", "medium": "34", "dark": "56"}
    assert Counter(short[p.skin_tone] for p in photos) == TONES
    assert Counter(short[p.skin_tone] for p in photos if p.malignant) == MALIGNANT
    assert Counter(short[p.skin_tone] for p in photos if p.mask) == MASKED and sum(MASKED.values()) == 334
    sizes = Counter(p.concept for p in photos)
    classes = Counter("one" if n == 1 else "few" if n <= 10 else "many" for n in sizes.values())
    assert classes == {"one": 25, "few": 27, "many": 13} and sizes["nevus"] == 135 and sizes["dermatofibroma"] == 22
    assert not any(p.concept == "basal-cell-carcinoma" and p.skin_tone == "dark" for p in photos)
    assert sheets.mixed_concepts() == ["spindle-cell-nevus-of-reed"]
    assert photos[0].image_id == "000001" and photos[0].file == "data/images/000001.png" and photos[0].cohort == "ddi"
    assert not check_files(sheets) and not any(p.group for p in photos)
    said = capsys.readouterr().out
    assert "656 photos, 334 with a mask" in said and "25 of 1 photo, 27 of 2-10, 13 of more than 10" in said


def test_the_same_input_gives_the_same_bytes(folder):
    args = ["ingest", *small_ddi(folder)]
    assert main(args) == 0
    first = (folder / "images.csv").read_bytes()
    assert main(args) == 0 and (folder / "images.csv").read_bytes() == first


def test_paths_outside_the_working_directory_are_absolute(folder, monkeypatch):
    args = small_ddi(folder)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")
    args = [str(folder / a) if a in ("ddi.csv", "images") else a for a in args]
    assert main(["ingest", *args]) == 0
    assert rows_of("images.csv")[0]["file"] == str(folder / "images" / "000001.png")


@pytest.mark.parametrize("name", ["000001.npy", "000001.png.npy", "000001.png"])
def test_mask_names(folder, capsys, name):
    args = small_ddi(folder)
    (folder / "masks").mkdir()
    mask = np.full((24, 32), 4, np.uint8)
    mask[8:16, 8:16] = 1
    for path in (name, "000009.npy"):
        if path.endswith("npy"):
            np.save(folder / "masks" / path, mask)
        else:
            (folder / "masks" / path).write_bytes(encode_png(mask))
    assert main(["ingest", *args, "--masks", "masks"]) == 0
    assert [row["mask"] for row in rows_of("images.csv")] == [f"masks/{name}", "", ""]
    assert "1 mask files belong to no photo of the table, e.g. 000009.npy" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"DDI_file": "none.png"}, ["row 4, column DDI_file", "no such photo in images"]),
        ({"DDI_file": ""}, ["row 4, column DDI_file", "is empty"]),
        ({"DDI_file": "a b.png"}, ["row 4, column DDI_file", "SPACE"]),
        ({"skin_tone": 78}, ["row 4, column skin_tone", "12, 34 or 56"]),
        ({"malignant": "perhaps"}, ["row 4, column malignant", "True or False"]),
        ({"disease": "warts"}, ["row 4, column disease", "Did you mean 'wart'"]),
        ({"DDI_file": "000001.png"}, ["row 4, column DDI_file", "stands in row 2"]),
    ],
)
def test_bad_metadata_names_its_own_rows_and_columns(folder, capsys, changes, words):
    assert main(["ingest", *small_ddi(folder, **changes)]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in words) and "ddi.csv" in said
    assert not (folder / "images.csv").exists()


def test_ids_that_are_no_json(folder, capsys):
    with pytest.raises(SystemExit):
        main(["ingest", *small_ddi(folder), "--mask-ids", "{0: 4}"])
    assert """{0: 4} is no JSON. Write e.g. '{"0": 4, "255": 1}'.""" in capsys.readouterr().err


def test_missing_columns_and_folders(folder, capsys):
    args = small_ddi(folder)
    (folder / "ddi.csv").write_text("a,b\n1,2\n")
    assert main(["ingest", *args]) == 2
    assert "column 'DDI_file' is missing. Is it ddi_metadata.csv as published?" in capsys.readouterr().err
    args = small_ddi(folder)
    assert main(["ingest", *args, "--masks", "nowhere"]) == 2 and "nowhere" in capsys.readouterr().err


def test_an_unreadable_photo_is_an_error(folder, capsys):
    args = small_ddi(folder)
    (folder / "images" / "000002.png").write_bytes(b"no picture")
    assert main(["ingest", *args]) == 2
    assert "row 3" in capsys.readouterr().err and not (folder / "images.csv").exists()


def test_writing_anew_refuses_to_lose_rows(folder, capsys):
    assert main(["ingest", *small_ddi(folder, count=3)]) == 0
    before = (folder / "images.csv").read_bytes()
    assert main(["ingest", *small_ddi(folder, count=2)]) == 2
    assert "--append" in capsys.readouterr().err and (folder / "images.csv").read_bytes() == before


def test_append_makes_a_cohort_of_its_own_and_touches_nothing(folder, capsys):
    assert main(["ingest", *small_ddi(folder)]) == 0
    old = (folder / "images.csv").read_text()
    assert main(["ingest", *small_ddi(folder, count=2, start=4), "--append"]) == 0
    assert main(["ingest", *small_ddi(folder, count=1, start=6), "--append"]) == 0
    assert main(["ingest", *small_ddi(folder, count=1, start=7), "--append", "--cohort", "ddi"]) == 0
    text = (folder / "images.csv").read_text()
    assert text.startswith(old)
    assert [row["cohort"] for row in rows_of("images.csv")] == ["ddi"] * 3 + ["ddi-2"] * 2 + ["ddi-3", "ddi"]
    assert "1 rows added as cohort ddi-3" in capsys.readouterr().out


def test_append_of_known_rows_adds_nothing(folder, capsys):
    assert main(["ingest", *small_ddi(folder)]) == 0
    before = (folder / "images.csv").read_bytes()
    assert main(["ingest", *small_ddi(folder), "--append"]) == 0
    assert "0 rows added, 3 there already" in capsys.readouterr().out
    assert (folder / "images.csv").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "what"),
    [({"malignant": True}, "malignant"), ({"skin_tone": 12}, "skin_tone"), ({"disease": "scar"}, "disease")],
)
def test_a_clash_is_an_error(folder, capsys, changes, what):
    assert main(["ingest", *small_ddi(folder)]) == 0
    before = (folder / "images.csv").read_bytes()
    assert main(["ingest", *small_ddi(folder, **changes), "--append"]) == 2
    said = capsys.readouterr().err
    assert f"with another {what}" in said and "row 4" in said and (folder / "images.csv").read_bytes() == before


def test_a_prefix_tells_equal_ids_apart(folder, capsys):
    assert main(["ingest", *small_ddi(folder, count=2)]) == 0
    args = ["--output", "images.csv", "--threads", "1", "--append"]
    save(folder / "other" / "000001.png", 77)
    write(folder / "o.csv", [{"DDI_file": "000001.png", "skin_tone": 56, "malignant": True, "disease": "scar"}])
    args = ["ingest", "ddi", "--metadata", "o.csv", "--images", "other", *args]
    assert main(args) == 2 and "--prefix" in capsys.readouterr().err
    assert main([*args, "--prefix", "test-", "--cohort", "test"]) == 0
    assert [row["image_id"] for row in rows_of("images.csv")] == ["000001", "000002", "test-000001"]
    assert main([*args, "--prefix", "../"]) == 2 and "FULL STOP" in capsys.readouterr().err


def test_copies_share_a_group(folder, capsys):
    args = small_ddi(folder, count=4)
    (folder / "images" / "000003.png").write_bytes((folder / "images" / "000001.png").read_bytes())
    assert main(["ingest", *args]) == 0
    assert [row["group"] for row in rows_of("images.csv")] == ["000001", "", "000001", ""]
    assert "one picture: 000001, 000003 -> group 000001" in capsys.readouterr().out


def test_the_order_of_the_table_changes_no_group(folder):
    args = small_ddi(folder, count=6)
    for copy, first in ((5, 2), (6, 2), (4, 1)):
        (folder / "images" / f"{copy:06d}.png").write_bytes((folder / "images" / f"{first:06d}.png").read_bytes())
    groups = []
    for turned in (False, True):
        rows = rows_of("ddi.csv")
        write(folder / "ddi.csv", rows[::-1] if turned else rows)
        assert main(["ingest", *args]) == 0
        groups.append({row["image_id"]: row["group"] for row in rows_of("images.csv")})
    one, two = "000001", "000002"
    assert groups[0] == groups[1] == dict(zip(sorted(groups[0]), [one, two, "", one, two, two], strict=True))


def test_an_appended_copy_of_an_old_photo(folder, capsys):
    assert main(["ingest", *small_ddi(folder, count=2)]) == 0
    args = small_ddi(folder, count=2, start=8)
    (folder / "images" / "000009.png").write_bytes((folder / "images" / "000001.png").read_bytes())
    before = (folder / "images.csv").read_bytes()
    assert main(["ingest", *args, "--append", "--skip-duplicates"]) == 0
    assert [row["image_id"] for row in rows_of("images.csv")] == ["000001", "000002", "000008"]
    (folder / "images.csv").write_bytes(before)
    assert main(["ingest", *args, "--append"]) == 0
    assert [row["group"] for row in rows_of("images.csv")] == ["", "", "", "000001"]
    assert "set their group yourself" in capsys.readouterr().out


def test_copies_of_photos_that_lie_beside_the_sheet_are_seen(folder, monkeypatch):
    args = small_ddi(folder, count=2)
    (folder / "sheets").mkdir()
    save(folder / "sheets" / "mine.png", 2)
    row = {
        "image_id": "old",
        "file": "mine.png",
        "cohort": "c",
        "disease": "wart",
        "skin_tone": "12",
        "malignant": "False",
    }
    write(folder / "sheets" / "images.csv", [row])
    args[args.index("images.csv")] = "sheets/images.csv"
    assert main(["ingest", *args, "--append"]) == 0
    assert [row["group"] for row in rows_of("sheets/images.csv")] == ["", "", "old"]


def test_appending_to_a_broken_sheet_is_refused(folder):
    (folder / "images.csv").write_text("id,file\n1,2\n")
    with pytest.raises(InvalidInput, match="column 'image_id' is missing"):
        command.main([*small_ddi(folder), "--append"])
