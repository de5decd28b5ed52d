"""The image sheet and the disease sheet: what is accepted, what is refused and how it is said."""

import subprocess
import sys
import time
import unicodedata
import zipfile

import pytest
from cgddi.core.errors import InvalidInput
from cgddi.ingest.names import IMAGE_ID, fault, slugify
from cgddi.plan.sheets import COLUMNS, REQUIRED, check_files, load_sheets, read_diseases
from hypothesis import example, given, settings
from hypothesis import strategies as st

DISEASES = "raw,concept\nbad-mole,bad mole\ngood-mole,good mole\nworse-mole,bad mole\n"
GOOD = {
    "image_id": "a1",
    "file": "a1.png",
    "cohort": "ddi",
    "disease": "bad-mole",
    "skin_tone": "12",
    "malignant": "True",
    "mask": "",
    "group": "",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "diseases.csv").write_text(DISEASES)
    return tmp_path


def sheet(*rows, columns=COLUMNS, separator=","):
    lines = [separator.join(columns)]
    for changes in rows:
        cells = {**GOOD, **changes}
        lines.append(separator.join('"' + cells[column].replace('"', '""') + '"' for column in columns))
    return "\n".join(lines) + "\n"


def load(text, encoding="utf-8", diseases="diseases.csv"):
    with open("images.csv", "wb") as handle:
        handle.write(text.encode(encoding))
    return load_sheets("images.csv", diseases)


def problems(text, **kwargs):
    with pytest.raises(InvalidInput) as caught:
        load(text, **kwargs)
    return caught.value.problems


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


@pytest.mark.parametrize(
    ("column", "cell", "words"),
    [
        ("image_id", "", "is empty"),
        ("image_id", "../x", "FULL STOP"),
        ("image_id", "a;b", "SEMICOLON"),
        ("image_id", "$(x)", "DOLLAR SIGN"),
        ("image_id", "a'b", "APOSTROPHE"),
        ("image_id", 'a"b', "QUOTATION MARK"),
        ("image_id", "a\nb", "U+000A"),
        ("image_id", "a b", "SPACE"),
        ("image_id", "a" * 300, "300 characters long"),
        ("image_id", "\u0430bc", "CYRILLIC SMALL LETTER A"),
        ("image_id", "\uff11", "FULLWIDTH DIGIT ONE"),
        ("image_id", "a\u200b", "ZERO WIDTH SPACE"),
        ("cohort", "", "is empty"),
        ("cohort", "DDI", "lowercase"),
        ("cohort", "2nd", "beginning with a letter"),
        ("cohort", "a/b", "SOLIDUS"),
        ("cohort", "a" * 65, "65 characters long"),
        ("file", "", "is empty"),
        ("file", "a\nb.png", "U+000A"),
        ("file", "x" * 1001, "1001 characters"),
        ("file", "a{b}.png", "a brace"),
        ("mask", "a\tb.npy", "U+0009"),
        ("mask", "}.npy", "a brace"),
        ("group", "a\x07", "U+0007"),
        ("skin_tone", "7", "no skin tone"),
        ("skin_tone", "2.5", "no skin tone"),
        ("skin_tone", "II-III", "no skin tone"),
        ("skin_tone", "olive", "no skin tone"),
        ("malignant", "maybe", "no malignancy"),
        ("malignant", "2", "no malignancy"),
        ("disease", "", "is empty"),
        ("mm_per_px", "0", "no scale"),
        ("mm_per_px", "fine", "no scale"),
        ("mm_per_px", "nan", "no scale"),
        ("disease", "bad-mol", "Did you mean 'bad-mole'"),
    ],
)
def test_bad_cells_name_row_column_and_remedy(folder, column, cell, words):
    columns = COLUMNS if column in COLUMNS else (*COLUMNS, column)
    first = {} if column in COLUMNS else {column: ""}
    (problem,) = problems(sheet(first, {"image_id": "second", column: cell}, columns=columns))
    assert problem.source == "images.csv" and problem.row == 3 and problem.column == column
    assert words in str(problem) and problem.remedy


def test_all_problems_at_once(folder):
    rows = [
        {"image_id": "../x", "skin_tone": "9"},
        {"image_id": "b", "malignant": "?"},
        {"image_id": "c", "cohort": "C"},
    ]
    (folder / "bad.csv").write_text("raw,concept,slug\nbad-mole,bad mole,../y\n")
    found = problems(sheet(*rows), diseases="bad.csv")
    assert [(p.source, p.row, p.column) for p in found] == [
        ("bad.csv", 2, "slug"),
        ("images.csv", 2, "image_id"),
        ("images.csv", 2, "skin_tone"),
        ("images.csv", 3, "malignant"),
        ("images.csv", 4, "cohort"),
    ]


@pytest.mark.parametrize(("second", "words"), [("a1", "row 2"), ("A1", "file systems do not tell apart")])
def test_ids_are_unique_over_cohorts(folder, second, words):
    (problem,) = problems(sheet({}, {"image_id": second, "cohort": "other"}))
    assert problem.row == 3 and words in problem.message and "cohort ddi" in problem.message


def test_rows_are_lines_of_the_file_also_after_a_cell_of_several_lines(folder):
    found = problems(sheet({}, {"image_id": "b", "group": "one\n\ntwo"}, {"image_id": "c", "skin_tone": "9"}))
    assert [(p.row, p.column) for p in found] == [(3, "group"), (6, "skin_tone")]


def test_an_unknown_disease_is_one_problem_with_its_count(folder):
    (problem,) = problems(sheet(*({"image_id": f"i{k}", "disease": "flu"} for k in range(5))))
    assert "5 rows" in problem.message and problem.row == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (",".join(COLUMNS) + "\n", "has no rows"),
        (sheet({}).replace("skin_tone", "skin"), "column 'skin_tone' is missing"),
        (sheet({}).replace("group", "patient"), "unknown column 'patient'"),
        (sheet({}).replace("mask", "Mask"), "Did you mean 'mask'"),
        (sheet({}).replace("mask", "file"), "stands 2 times"),
        (sheet({}).replace("mask", ""), "a column without a name"),
        (sheet({"group": "x"}).replace("group", ""), "has 8 cells, the header has 7"),
        (sheet({}) + "x,y\n", "has 2 cells, the header has 8"),
        (sheet({}) + '"x,y\n', "cannot be parsed"),
    ],
)
def test_bad_tables(folder, text, words):
    assert any(words in str(problem) for problem in problems(text))


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8-sig", "utf-16"])
def test_encodings_of_spreadsheets(folder, encoding):
    assert load(sheet({"group": "Müller"}), encoding=encoding).photos[0].group == "Müller"


def test_wrong_encoding(folder):
    (folder / "images.csv").write_bytes(sheet({"group": "x"}).encode().replace(b"x", b"\x81"))
    with pytest.raises(InvalidInput, match="row 2.*is not UTF-8.*CSV UTF-8"):
        load_sheets("images.csv", "diseases.csv")


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


def test_problems_of_one_kind_share_a_line(folder):
    rows = [{"image_id": f"i{k}", "skin_tone": "olive" if k % 2 else "12"} for k in range(90)]
    with pytest.raises(InvalidInput) as caught:
        load(sheet(*rows, {"image_id": "x y"}))
    first, tones, name = str(caught.value).splitlines()
    assert first == "46 problem(s) in the input:" and "SPACE" in name
    assert tones.startswith(
        "  - 45 x images.csv, rows 3, 5, 7, 9, 11, 13 and 39 more, column skin_tone: is no skin tone"
    )


def test_a_spreadsheet_and_a_missing_file(folder):
    (folder / "x.xlsx").write_bytes(b"PK\x03\x04\0\0")
    (folder / "x.xls").write_bytes(b"\xd0\xcf\x11\xe0\0\0")
    for name, words in (("x.xlsx", "spreadsheet"), ("x.xls", "old kind"), ("none.csv", "no such file")):
        with pytest.raises(InvalidInput, match=words):
            load_sheets(name, "diseases.csv")


@pytest.mark.parametrize(
    ("text", "column", "words"),
    [
        ("raw,concept,slug\nx,y,a/b\n", "slug", "SOLIDUS"),
        ("raw,concept,slug\nx,y,-a\n", "slug", "beginning and ending"),
        ("raw,concept,slug\nx,y,Healthy\n", "slug", "lowercase"),
        ("raw,concept\nx,healthy\n", "slug", "reserved"),
        ("raw,concept\nx,Псориаз\n", "slug", "is empty"),
        ("raw,concept\nx,a b\ny,a-b\n", "slug", "share the slug"),
        ("raw,concept\nx,Nevus\ny,nevus\n", "slug", "share the slug"),
        ("raw,concept,slug,token\nx,a,a,<t>\ny,b,b,<t>\n", "token", "share the token"),
        ("raw,concept,token\nx,a,plain\n", "token", "<name>"),
        ("raw,concept,token\nx,a,<a b>\n", "token", "SPACE"),
        ("raw,concept,slug\nx,a,a\ny,a,b\n", "slug", "in an earlier row"),
        ("raw,concept\nx,a\nx,a\n", "raw", "earlier row too"),
        ("raw,concept\nx,\n", "concept", "is empty"),
        ("raw,concept\n,a\n", "raw", "is empty"),
        ('raw,concept\nx,"a\nb"\n', "concept", "unprintable"),
        ("raw,concept\n", None, "has no rows"),
        ("raw,name\nx,y\n", "concept", "is missing"),
    ],
)
def test_bad_disease_sheets(folder, text, column, words):
    (folder / "d.csv").write_text(text, encoding="utf-8")
    _, found = read_diseases("d.csv")
    assert any(p.column == column and words in str(p) for p in found), [str(p) for p in found]


def test_an_unknown_builtin(folder):
    _, (problem,) = read_diseases("builtin:isic")
    assert "builtin:ddi" in problem.remedy


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


hostile = st.text(st.characters(codec="utf-8"), min_size=1, max_size=80)


@settings(max_examples=300, deadline=None)
@given(hostile)
@example("../x")
@example("a\u0301")
@example("a\n")
@example("a\x85b")
@example("x" * 65)
def test_no_hostile_id_passes(text):
    import re

    accepted = fault(text, IMAGE_ID) is None
    assert accepted == bool(re.fullmatch(r"(?a:[\w-]){1,64}", text))
    assert accepted or "allowed are" in fault(text, IMAGE_ID)


@settings(max_examples=150, deadline=None)
@given(hostile, st.sampled_from(COLUMNS))
def test_a_hostile_cell_is_read_or_refused_but_never_breaks(tmp_path_factory, text, column):
    from cgddi.ingest.diseases import check_diseases
    from cgddi.ingest.table import parse_table
    from cgddi.plan.sheets import check_images

    known, _ = check_diseases(parse_table("d", DISEASES))
    sheets, found = check_images(parse_table("s", sheet({column: text})), known, "d")
    assert bool(sheets.photos) != bool(found)
    assert all(str(p) for p in found)
    for photo in sheets.photos:
        assert fault(photo.image_id, IMAGE_ID) is None
        assert not any(unicodedata.category(c) == "Cc" for c in photo.file + (photo.mask or "") + (photo.group or ""))


@given(hostile)
def test_slugs_are_safe_or_empty(name):
    slug = slugify(name)
    assert slug.isascii() and slug == slug.lower() and not set(slug) & set("/.<>() '\"$;")
    assert slugify(slug) == slug


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
