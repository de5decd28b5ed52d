"""`cgddi ingest synthetic`: folders, tables and shards of others become one kind of archive, told by hand what each image is."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
import webdataset
import yaml
from cgddi.cli import main as cgddi
from cgddi.core.archive import Archive
from cgddi.core.errors import InvalidInput, UserError
from cgddi.core.images import decode_png, encode_png
from cgddi.ingest.column_map import ColumnMap, read_map
from cgddi.ingest.command import main
from cgddi.plan.given import ids_of
from PIL import Image

PHOTOS = {  # id -> tone, malignant, disease
    "000001": ("12", "True", "basal-cell-carcinoma"),
    "000002": ("34", "False", "melanocytic-nevi"),
    "000003": ("56", "False", "morphea"),
    "0a1b": ("56", "", "lipoma"),
}


def picture(seed: int, size: tuple[int, int] = (16, 12)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (*size[::-1], 3), np.uint8)


def jpeg(seed: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(seed)).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """A working directory with an image sheet of four photos in cohort ddi."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    with open("config/images.csv", "w", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["image_id", "file", "cohort", "disease", "skin_tone", "malignant"])
        writer.writerows([i, f"{i}.png", "ddi", disease, tone, bad] for i, (tone, bad, disease) in PHOTOS.items())
    return tmp_path


def ingest(*arguments: str, output: str = "data/set.tar") -> dict[str, dict]:
    """Rows of the archive that the command writes, by origin."""
    main(["synthetic", *arguments, "--output", output, "--threads", "2"])
    archive = Archive(output)
    for row in archive.rows:
        assert decode_png(archive.read(row)).shape[2] == 3
    return {row["origin"]: row for row in archive.rows}


def facts(row: dict) -> tuple:
    return tuple(row[k] for k in ("kind", "concept", "tone", "malignant", "donor", "canvas", "generator", "unknown"))


def test_a_folder_by_the_names_that_the_published_notebook_writes(lab, capsys):
    names = {
        "Healthy/000002.png": ("healthy", "healthy", "medium", None, None, "000002", None, []),
        "mapped/000002_with_basal_cell_carcinoma_from_12_000001.png": (
            *("lesion_mapped", "basal-cell-carcinoma", "medium", True, "000001", "000002", None, []),
        ),
        "mapped/000001_with_scleroderma_or_morphea_from_56_000003.png": (
            *("lesion_mapped", "scleroderma-morphea", "light", False, "000003", "000001", None, []),
        ),
        "semantic/dark/nevus/000001_3.png": (*("semantic", "nevus", "dark", None, None, "000001", "nevus", []),),
    }
    for seed, name in enumerate(names):
        path = lab / "release" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(picture(seed)))
    (lab / "release/README.md").write_text("x")
    rows = ingest("--from", "release", "--map", "cgddi")
    assert {name: facts(row) for name, row in rows.items()} == names
    archive = Archive("data/set.tar")
    assert archive.record["generators"] == {"nevus": sorted(PHOTOS)}, "the whole of cohort ddi, as published"
    for seed, name in enumerate(names):
        assert np.array_equal(decode_png(archive.read(rows[name])), picture(seed))
    assert "synthetic: {set: {archive: data/set.tar}}" in capsys.readouterr().out
    before = (lab / "data/set.tar").read_bytes()
    ingest("--from", "release", "--map", "cgddi", output="again/set.tar")
    assert (lab / "again/set.tar").read_bytes() == before, "same input, same bytes"


def shard(path, samples):
    with webdataset.TarWriter(str(path)) as tar:
        for key, cells in samples.items():
            tar.write({"__key__": key, "png": encode_png(picture(len(key))), "json": json.dumps(cells).encode()})


def synderm(label, method, submethod, photo):
    tag = {"generation_num": "00", "tag": "generations1"}
    return {"label": label, "method": method, "submethod": submethod, "md5hash": photo, "name": "x.png", **tag}


def test_shards_as_synderm_publishes_them(lab, capsys):
    (lab / "shards").mkdir()
    shard(
        "shards/shard-inpaint-00000.tar",
        {
            "a": synderm("morphea", "finetune-inpaint", "inpaint", "0a1b"),
            "b": synderm("lipoma", "pretrained-inpaint", "inpaint-outpaint", "0a1b"),
        },
    )
    text = "finetune-text-to-image"
    shard("shards/shard-text-00000.tar", {"c": synderm("lipoma", text, "text-to-image", "0a1b")})
    shard("shards/shard-text-00001.tar", {"d": synderm("psoriasis", text, "text-to-image", "0a1b")})
    rows = ingest("--from", "shards", "--map", "synderm")
    assert {name: facts(row) for name, row in rows.items()} == {
        "a": ("semantic", "scleroderma-morphea", "dark", None, None, "0a1b", "finetune-inpaint", ["generator"]),
        "b": ("semantic", "lipoma", "dark", None, None, "0a1b", "pretrained-inpaint", []),
        "c": ("semantic", "lipoma", None, None, None, None, text, ["generator"]),
    }
    said = capsys.readouterr().out
    assert "1 left out: not in the disease sheet are psoriasis" in said
    assert "2 of unknown generator, which counts as a leak" in said and "1 without a skin tone" in said
    (lab / "seen.csv").write_text("md5hash,label\n0a1b,lipoma\nffff.jpg,lipoma\n")
    rows = ingest("--from", "shards", "--map", "synderm", "--learnt-from", f"{text}=seen.csv")
    assert facts(rows["c"])[-1] == [] and facts(rows["a"])[-1] == ["generator"]
    record = Archive("data/set.tar").record
    assert record["generators"] == {"pretrained-inpaint": [], text: ["0a1b", "ffff"]}
    assert record["unknown_generators"] == ["finetune-inpaint"]


def write_map(path="map.yaml", **more) -> str:
    columns = {"disease": "dx", "kind": "type", "skin_tone": "fst", "malignant": "bad", "donor": "from", "canvas": "on"}
    with open(path, "w") as handle:
        yaml.safe_dump({"columns": columns, **more}, handle)
    return path


TABLE = [
    {"file": "a.jpg", "dx": "nevus", "type": "mapped", "fst": "5", "bad": "no", "from": "000001.png", "on": "2"},
    {"file": "b.jpg", "dx": "lipoma", "type": "mapped", "fst": "", "bad": "", "from": "", "on": "none"},
]
VALUES = {"values": {"kind": {"mapped": "lesion_mapped"}}, "tone_of": "canvas"}
EXPECTED = {
    "a.jpg": ("lesion_mapped", "nevus", "dark", False, "000001", "000002", None, []),
    "b.jpg": ("lesion_mapped", "lipoma", None, None, None, None, None, ["donor"]),
}


def test_a_csv_and_a_parquet_table_say_the_same(lab):
    import pyarrow
    import pyarrow.parquet

    (lab / "made").mkdir()
    for seed, name in enumerate(EXPECTED):
        (lab / "made" / name).write_bytes(jpeg(seed))
    with open("made/table.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, TABLE[0])
        writer.writeheader()
        writer.writerows(TABLE)
    rows = ingest("--from", "made/table.csv", "--map", write_map(**VALUES))
    assert {name: facts(row) for name, row in rows.items()} == EXPECTED
    images = [{"bytes": jpeg(seed), "path": row["file"]} for seed, row in enumerate(TABLE)]
    columns = {name: [row[name] for row in TABLE] for name in TABLE[0] if name != "file"}
    pyarrow.parquet.write_table(pyarrow.table({**columns, "image": images}), "made/x.parquet")
    rows = ingest("--from", "made/x.parquet", "--map", write_map(**VALUES), output="data/parquet.tar")
    assert {name: facts(row) for name, row in rows.items()} == EXPECTED
    one, other = Archive("data/set.tar"), Archive("data/parquet.tar")
    assert [row["sha256"] for row in one.rows] == [row["sha256"] for row in other.rows]
    truth = np.asarray(Image.open(io.BytesIO(jpeg(0))))
    assert np.array_equal(decode_png(one.read(one.rows[0])), truth), "a JPEG is what Pillow makes of it"
    rows = ingest("--from", "made/table.csv", "--map", write_map(**VALUES), "--size", "6", output="data/small.tar")
    archive = Archive("data/small.tar")
    assert {decode_png(archive.read(row)).shape for row in archive.rows} == {(6, 8, 3)}


def test_ids_with_a_prefix_of_the_sheet(lab):
    text = (lab / "config/images.csv").read_text()
    (lab / "config/images.csv").write_text(text.replace("\n00000", "\nddi-00000"))
    (lab / "x").mkdir()
    (lab / "x/000002_with_nevus_from_12_000001.png").write_bytes(encode_png(picture(1)))
    (row,) = ingest("--from", "x", "--map", "cgddi", "--prefix", "ddi-").values()
    assert (row["donor"], row["canvas"]) == ("ddi-000001", "ddi-000002")
    with pytest.raises(UserError, match=r"none of the photos .* stands in the image sheet, e.g. 000001.*--prefix"):
        ingest("--from", "x", "--map", "cgddi", output="data/other.tar")
    assert not (lab / "data/other.tar").exists()


BAD = {
    "a column": (
        {"columns": {"kind": "type", "disease": "diagnosis"}},
        r"table.csv: no column diagnosis. It has file, dx",
    ),
    "a kind": ({}, r"a.jpg: no kind of image; there are healthy, .*\(found 'mapped'\).*it reads type"),
    "a tone": (VALUES | {"rules": [{"set": {"skin_tone": "{dx}"}}]}, r"a.jpg: no skin tone \(found 'nevus'\)"),
    "a disease": (
        VALUES | {"rules": [{"set": {"disease": "naevus"}}]},
        r"no image is left.*\n.*\n?.*not in the .* naevus",
    ),
    "a key": ({"colums": {}}, r"map.yaml, colums: Extra inputs.*A map has the keys"),
    "an expression": ({"rules": [{"path": "("}]}, r"map.yaml, rules.0.path: .*is no regular expression"),
    "a list": (
        VALUES | {"rules": [{"set": {"generator": "g"}}], "learnt_from": {"*": "cohort:x"}},
        "no cohort of the image",
    ),
}


@pytest.mark.parametrize("what", BAD)
def test_what_a_map_gets_wrong_is_named(lab, what):
    change, message = BAD[what]
    (lab / "made").mkdir()
    for name in EXPECTED:
        (lab / "made" / name).write_bytes(jpeg(1))
    with open("made/table.csv", "w", newline="") as handle:
        writer = csv.DictWriter(handle, TABLE[0])
        writer.writeheader()
        writer.writerows(TABLE)
    with pytest.raises((InvalidInput, UserError), match=message):
        ingest("--from", "made/table.csv", "--map", write_map(**change))
    assert not (lab / "data/set.tar").exists()


def test_sources_that_cannot_be_read_are_named(lab, capsys):
    for words, message in (
        (("--from", "nowhere", "--map", "cgddi"), "nowhere: no such file or folder"),
        (("--from", "config", "--map", "cgddi"), "config: holds no shards"),
        (
            ("--from", "config/images.csv", "--map", "nosuch"),
            "nosuch: no such file. Shipped maps are cgddi, export, synderm",
        ),
    ):
        assert cgddi(["ingest", "synthetic", *words, "--output", "data/x.tar"]) == 2
        assert message in capsys.readouterr().err
    (lab / "x").mkdir()
    (lab / "x/000002_with_nevus_from_12_000001.png").write_bytes(b"\x89PNG broken")
    (lab / "x/000001_with_nevus_from_12_000001.png").write_bytes(encode_png(picture(1)))
    assert len(ingest("--from", "x", "--map", "cgddi")) == 1
    assert "1 left out that cannot be read, e.g. 000002_with" in capsys.readouterr().out


def test_later_rules_come_over_earlier_ones():
    chosen = ColumnMap.model_validate(
        {
            "columns": {"kind": "k"},
            "rules": [
                {"path": r"(?P<tone>dark)", "set": {"skin_tone": "{tone}", "kind": "semantic"}},
                {"when": {"k": "a|b"}, "set": {"kind": "healthy"}},
            ],
        }
    )
    assert [chosen.fields("x/dark.png", {"k": k})["kind"] for k in ("a", "ab")] == ["healthy", "semantic"]
    assert chosen.fields("x/light.png", {"k": "c"})["kind"] == "c"
    assert {read_map(name).tone_of for name in ("cgddi", "synderm")} == {"canvas"}


def test_an_export_of_ours_says_the_same_in_parquet_and_in_tars():
    chosen = read_map("export")
    same = {
        "kind": "semantic",
        "concept": "nevus",
        "tone": "dark",
        "donor": "",
        "canvas": "000002",
        "generator": "main/nevus",
    }
    told = [
        ({"malignant": "True"}, {"malignancy": "malignant"}, "true"),
        ({"malignant": ""}, {"malignancy": "unknown"}, ""),
    ]
    told += [({"malignant": "False"}, {"malignancy": "benign"}, "false")]
    for parquet, tar, malignant in told:
        fields = chosen.fields("x", same | parquet)
        assert fields == chosen.fields("x", same | tar) and fields["malignant"] == malignant
        assert (fields["disease"], fields["skin_tone"], fields["canvas"]) == ("nevus", "dark", "000002")


def test_of_an_exported_split_only_training_photos_were_learnt_from(tmp_path):
    (tmp_path / "split.csv").write_text("image_id,role\n1,train\n2,test\n3,validation\n4,train\n")
    assert ids_of(str(tmp_path / "split.csv")) == ["1", "4"]
