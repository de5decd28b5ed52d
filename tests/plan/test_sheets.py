"""The image sheet and the disease sheet: what is accepted, in which forms."""

import subprocess
import sys
import time
import zipfile

import pytest
from cgddi.plan.sheets import COLUMNS, REQUIRED, check_files, load_sheets

from tests.plan.sheet import load, sheet


def test_a_good_row(folder):
    (photo,) = load(sheet({"group": "patient 7", "mask": "m.npy"})).photos
    assert photo.image_id == "a1" and photo.concept == "bad-mole" and photo.skin_tone == "light"
    assert photo.malignant is True and photo.mask == "m.npy" and photo.group == "patient 7" and photo.row == 2


def test_a_scale(folder):
    columns = (*COLUMNS, "mm_per_px")
    photos = load(sheet({"mm_per_px": "0.05"}, {"image_id": "b", "mm_per_px": ""}, columns=columns)).photos
    assert [photo.mm_per_px for photo in photos] == [0.05, None]


def test_order_concepts_and_mixed(folder):
    rows = [{"image_id": "z"}, {"image_id": "b", "disease": "good-mole"}]
    sheets = load(sheet(*rows, {"image_id": "c", "disease": "worse-mole", "malignant": "0"}))
    assert [p.image_id for p in sheets.photos] == ["z", "b", "c"]
    assert list(sheets.concepts) == ["bad-mole", "good-mole"]
    assert sheets.concepts["bad-mole"].name == "bad mole" and sheets.concepts["bad-mole"].token == "<bad-mole>"
    assert sheets.mixed_concepts() == ["bad-mole"]


def test_unknown_malignancy_mixes_with_neither(folder):
    assert load(sheet({}, {"image_id": "b", "malignant": ""})).mixed_concepts() == []


def test_only_concepts_that_occur(folder):
    assert list(load(sheet({"disease": "good-mole"})).concepts) == ["good-mole"]


@pytest.mark.parametrize(
    ("tone", "name"),
    [("light", "light"), ("Dark", "dark"), ("12", "light"), ("34", "medium"), ("56", "dark")]
    + [
        (str(t), name)
        for t, name in zip(range(1, 7), ["light", "light", "medium", "medium", "dark", "dark"], strict=True)
    ],
)
def test_tones(folder, tone, name):
    assert load(sheet({"skin_tone": tone})).photos[0].skin_tone == name


@pytest.mark.parametrize(
    ("cell", "value"),
    [("True", True), ("1", True), ("yes", True), ("FALSE", False), ("0", False), ("no", False), ("", None)],
)
def test_malignant(folder, cell, value):
    assert load(sheet({"malignant": cell})).photos[0].malignant is value


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_dialects_are_read_quietly(folder, separator, end, encoding):
    text = sheet({}, {"image_id": "b", "group": "a,b;c"}, separator=separator).replace("\n", end)
    photos = load(text, encoding=encoding).photos
    assert [p.image_id for p in photos] == ["a1", "b"] and photos[1].group == "a,b;c"


def test_blank_lines_and_blanks_around_cells(folder):
    text = "\n" + sheet({"image_id": " a1 "}) + "\n,,,,,,,\n" + "\n"
    assert load(text).photos[0].image_id == "a1"
    assert load(text).photos[0].row == 3


def test_optional_columns_may_be_absent(folder):
    photo = load(sheet({}, columns=REQUIRED)).photos[0]
    assert photo.mask is None and photo.group is None


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8-sig", "utf-16"])
def test_encodings_of_spreadsheets(folder, encoding):
    assert load(sheet({"group": "Müller"}), encoding=encoding).photos[0].group == "Müller"


@pytest.mark.parametrize(
    "text",
    [
        "sep=;\n" + sheet({}, {"image_id": "b"}, separator=";"),
        "\n".join(line + ",," for line in sheet({}, {"image_id": "b"}).splitlines()) + "\n,,,,,,,,,\n",
        "\n".join(
            f"{'' if k < 0 else k},{line}" for k, line in enumerate(sheet({}, {"image_id": "b"}).splitlines(), -1)
        ),
        "\n".join(
            f"{'Unnamed: 0' if k < 0 else k},{line}"
            for k, line in enumerate(sheet({}, {"image_id": "b"}).splitlines(), -1)
        ),
    ],
    ids=["sep line", "empty columns", "index of pandas", "index read twice"],
)
def test_sheets_that_a_spreadsheet_or_pandas_saved(folder, text):
    assert [photo.image_id for photo in load(text).photos] == ["a1", "b"]


TOLD = {
    "light": [
        "light",
        "12",
        "12.0",
        "1",
        "2.0",
        "2,0",
        "I",
        "ii",
        "I-II",
        "I\u2013II",
        "1-2",
        "1 / 2",
        "Type II",
        "FST1",
        "I to II",
    ],
    "medium": ["Medium", "34", "3", "3.0", "III", "iv", "III/IV", "fitzpatrick 4", "III & IV", "FST_III"],
    "dark": ["DARK", "56", "5", "6.00", "V", "VI", "V-VI", "skin type VI"],
    "unknown": ["", "unknown", "nan", "NA", "n/a", "-1", "-1.0", "None"],
}


@pytest.mark.parametrize(("tone", "cell"), [(tone, cell) for tone, cells in TOLD.items() for cell in cells])
def test_tones_as_labs_write_them(folder, tone, cell):
    assert load(sheet({"skin_tone": cell})).photos[0].skin_tone == tone


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("WAHR", True),
        ("FALSCH", False),
        ("VRAI", True),
        ("1.0", True),
        ("0.0", False),
        ("nan", None),
        ("Benign", False),
    ],
)
def test_malignancy_as_spreadsheets_save_it(folder, cell, value):
    assert load(sheet({"malignant": cell})).photos[0].malignant is value


def test_paths_fall_back_to_the_sheets_folder(folder):
    (folder / "data").mkdir()
    (folder / "data" / "beside.png").touch()
    (folder / "here.png").touch()
    (folder / "data" / "here.png").touch()
    rows = [{"file": "beside.png"}, {"image_id": "b", "file": "here.png"}, {"image_id": "c", "file": "none.png"}]
    (folder / "data" / "images.csv").write_text(sheet(*rows, {"image_id": "d", "file": str(folder / "here.png")}))
    sheets = load_sheets("data/images.csv", "diseases.csv")
    assert [p.file for p in sheets.photos] == ["data/beside.png", "here.png", "none.png", str(folder / "here.png")]
    (problem,) = check_files(sheets)
    assert problem.row == 4 and problem.column == "file" and problem.value == "none.png"


def test_check_files_sees_masks(folder):
    (folder / "a1.png").touch()
    (problem,) = check_files(load(sheet({"mask": "no/m.npy"})))
    assert problem.column == "mask" and "no such file" in problem.message


def test_sixteen_thousand_rows_take_half_a_second(folder):
    (folder / "photos").mkdir()
    rows = "\n".join(f"{i:032x},photos/{i}.jpg,f17k,psoriasis,{i % 6 + 1},False,," for i in range(16577))
    (folder / "big.csv").write_text(",".join(COLUMNS) + "\n" + rows + "\n")
    best = min(_seconds(lambda: load_sheets("big.csv", "builtin:fitzpatrick17k")) for _ in range(3))
    assert best < 0.5


def _seconds(call):
    start = time.process_time()
    call()
    return time.process_time() - start


def test_import_is_light():
    code = "import sys, cgddi.plan.sheets; print([m for m in ('numpy', 'PIL', 'pandas', 'torch', 'tqdm') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_a_workbook_as_excel_writes_it(folder):
    """Shared and inline strings, numbers, truth values, an error, a gap in a row and an empty row between."""
    main = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    header = [*REQUIRED, "mask", "group"]
    shared = "".join(f"<si><t>{name}</t></si>" for name in header) + "<si><r><t>bad</t></r><r><t>-mole</t></r></si>"
    letters = "ABCDEFGH"
    first = "".join(f'<c r="{letters[k]}1" t="s"><v>{k}</v></c>' for k in range(8))

    def row(number, image, tone, malignant):
        return (
            f'<row r="{number}"><c r="A{number}" t="inlineStr"><is><t>{image}</t></is></c>'
            f'<c r="B{number}" t="str"><v>{image}.png</v></c>'
            f'<c r="C{number}" t="inlineStr"><is><t>ddi</t></is></c><c r="D{number}" t="s"><v>8</v></c>{tone}'
            f'<c r="F{number}" t="b"><v>{malignant}</v></c><c r="H{number}"><v>7.0</v></c></row>'
        )

    rows = row(2, "a", '<c r="E2"><v>3</v></c>', 1) + row(4, "b", '<c r="E4" t="e"><v>#N/A</v></c>', 0)
    with zipfile.ZipFile(folder / "images.xlsx", "w") as book:
        book.writestr("xl/sharedStrings.xml", f"<sst {main}>{shared}</sst>")
        sheet = f'<worksheet {main}><sheetData><row r="1">{first}</row>{rows}</sheetData></worksheet>'
        book.writestr("xl/worksheets/sheet1.xml", sheet)
        book.writestr("xl/worksheets/sheet2.xml", f"<worksheet {main}/>")
    one, other = load_sheets("images.xlsx", "diseases.csv").photos
    assert (one.image_id, one.skin_tone, one.malignant, one.mask, one.group, one.row) == (
        "a",
        "medium",
        True,
        None,
        "7",
        2,
    )
    assert (other.image_id, other.skin_tone, other.malignant, other.row) == ("b", "unknown", False, 4)
