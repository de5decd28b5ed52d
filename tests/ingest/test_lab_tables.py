"""A lab's sheets and public sets' tables as they are, through `cgddi ingest`."""

import os
import shutil

import pytest
from cgddi.cli import main
from cgddi.plan.sheets import load_sheets

from tests.ingest.lab import lab, lesion, photo, save_mask
from tests.ingest.tables import rows_of, write


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


def test_paths_in_a_table_start_at_the_photos_or_at_the_table(folder, capsys):
    """As labs write them: `photos/x.jpg` beside the table, Windows' slashes, bare names of files in the photos' folder."""
    names = ["photos/IMG_0.jpg", "C:\\study\\IMG_1.jpg", "IMG_2.jpg"]
    args = lab(folder, 3, file=names, mask=["masks/a.png", "masks\\a.png", ""])
    save_mask(lesion(), folder / "masks/a.png")
    assert main(args) == 0, capsys.readouterr().err
    photos = load_sheets("images.csv", "diseases.csv").photos
    assert [photo.file for photo in photos] == [f"photos/IMG_{n}.jpg" for n in range(3)]
    assert [photo.mask for photo in photos] == ["masks/a.png", "masks/a.png", None]
    args = lab(folder, 3, file=["photos/IMG_0.jpg", "nosuch/IMG_9.jpg", "IMG_2.jpg"])
    assert main([*args, "--replace"]) == 2
    assert "row 3, column file: there is no such photo in photos (found 'nosuch/IMG_9.jpg')" in capsys.readouterr().err


def test_a_letter_that_looks_latin_is_refused(folder, capsys):
    args = lab(folder, 3, disease=["melanoma", "melan\u043ema", "nevus"])
    assert main(args) == 2
    said = capsys.readouterr().err
    assert "CYRILLIC SMALL LETTER O" in said and "Type the name again" in said
    assert not (folder / "diseases.csv").exists() and not (folder / "images.csv").exists()


def test_columns_of_other_names_are_asked_for(folder, capsys):
    args = lab(folder, 3)
    table = (folder / "lab.csv").read_text()
    (folder / "lab.csv").write_text(table.replace("disease", "Diagnosis").replace("skin_tone", "FST"))
    assert main(args) == 2
    said = capsys.readouterr().err
    assert "lab.csv, row 1, column disease: " in said and "Say which of file, Diagnosis, FST, malignant it is" in said
    assert "--column skin_tone=NAME" in said and "column=file" not in said and not (folder / "diseases.csv").exists()
    assert main([*args, "--column", "disease=Diagnosis", "--column", "skin_tone=FST"]) == 0


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


def test_two_tables_in_the_wrong_order_and_of_another_set(folder, capsys):
    (folder / "p").mkdir()
    for name, text in (("photos", MILK), ("lesions", MILK_TRUTH)):
        (folder / f"{name}.csv").write_text(text)
    rest = ["--images", "p", "--output", "images.csv", "--write-diseases", "diseases.csv"]
    start = ["ingest", "folder", "--map"]
    assert main([*start, "milk10k", "--table", "lesions.csv", "--also", "photos.csv", *rest]) == 2
    said = capsys.readouterr().err  # a lesion's second photo would be lost
    assert "photos.csv, column lesion_id: " in said and "IL_0000652" in said and "Give this table by --table" in said
    assert main([*start, "pad-ufes-20", "--table", "photos.csv", *rest]) == 2
    assert "column 'img_id' is missing. Take the tables the map is made for" in capsys.readouterr().err
