"""The image sheet and the disease sheet: what is refused and how it is said."""

import unicodedata

import pytest
from cgddi.core.errors import InvalidInput
from cgddi.ingest.names import IMAGE_ID, fault, slugify
from cgddi.plan.sheets import COLUMNS, load_sheets, read_diseases
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.plan.sheet import DISEASES, load, problems, sheet


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


def test_wrong_encoding(folder):
    (folder / "images.csv").write_bytes(sheet({"group": "x"}).encode().replace(b"x", b"\x81"))
    with pytest.raises(InvalidInput, match="row 2.*is not UTF-8.*CSV UTF-8"):
        load_sheets("images.csv", "diseases.csv")


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
