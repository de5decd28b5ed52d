"""`cgddi check`: every fault of a sheet, a photo or a mask is found, all of them at once."""

import json

import numpy as np
import pytest
from cgddi.cli import main
from cgddi.core.errors import UserError
from cgddi.core.images import encode_png
from cgddi.ingest.mask_check import id_map
from cgddi.plan.checked import Reading
from cgddi.watch.check import check
from PIL import Image

from tests.ingest.ddi_shaped import write_ddi_shaped

HEADER = "image_id,file,cohort,disease,skin_tone,malignant,mask,group\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "a.png").write_bytes(encode_png(rng.integers(0, 256, (30, 40, 3))))
    (tmp_path / "b.png").write_bytes(encode_png(rng.integers(0, 256, (30, 40, 3))))
    (tmp_path / "d.csv").write_text("raw,concept\nmole,mole\nwart,wart\n")
    return tmp_path


def test_networks_and_files_that_a_config_names_and_nobody_has(folder, capsys):
    """A network that timm does not know would be missed after all images are made; a path that is no hub id was a traceback."""
    sheet()
    (folder / "c.yaml").write_text(
        "images: images.csv\ndiseases: d.csv\nreview: nosuch.csv\nclassify:\n  methods:\n    fairdisco: {backbone: resnet_nix}\n"
        "adapters:\n  mole: {source: /nosuch}\n"
    )
    assert main(["check", "--configfile", "c.yaml"]) == 2
    said = capsys.readouterr().err
    assert "c.yaml, line 6, classify.methods.fairdisco.backbone: timm has no backbone 'resnet_nix'" in said
    assert "c.yaml, line 8, adapters.mole.source: no such file" in said
    (folder / "c.yaml").write_text("images: images.csv\ndiseases: d.csv\nreview: nosuch.csv\n")
    assert main(["check", "--configfile", "c.yaml"]) == 2
    assert "c.yaml, line 3, review: no such file (found 'nosuch.csv')" in capsys.readouterr().err
    (folder / "c.yaml").write_text("results: results/a\nimages: nowhere.csv\ndiseases: gone.csv\n")
    assert main(["check", "--configfile", "c.yaml"]) == 2
    said = capsys.readouterr().err
    assert "c.yaml, line 2, images: no such file (found 'nowhere.csv')" in said
    assert "c.yaml, line 3, diseases: no such file (found 'gone.csv')" in said and said.count("no such file") == 2


def good_mask(shape=(16, 16), dtype=np.int32):
    mask = np.full(shape, 4, dtype)
    mask[4:9, 4:9] = 1
    return mask


def sheet(first="", second="", a="a.png", b="b.png"):
    rows = f"a,{a},c,mole,12,True,{first},\nb,{b},c,wart,34,False,{second},\n"
    with open("images.csv", "w") as handle:
        handle.write(HEADER + rows)


def found(**kwargs):
    _, problems, warnings = check("images.csv", "d.csv", **kwargs)
    return problems, warnings


def save_picture(array, path="m.png"):
    Image.fromarray(array).save(path)
    return path


def save_array(array, path="m.npy"):
    np.save(path, array)
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda: save_array(good_mask()),
        lambda: save_array(good_mask((30, 40))),
        lambda: save_array(good_mask((15, 20), np.uint8)),
        lambda: save_array(good_mask((256, 256), np.int64)),
        lambda: save_picture(good_mask((30, 40), np.uint8)),
        lambda: save_picture(good_mask((60, 80), np.uint16)),
    ],
)
def test_good_masks(folder, make):
    sheet(make())
    assert found() == ([], [])


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: "none.npy", "no such mask file"),
        (lambda: save_array(good_mask() + 0.5), "float64"),
        (lambda: save_array(np.zeros((16, 16, 3), int)), "2-D"),
        (lambda: save_array(np.zeros((0, 5), int)), "2-D"),
        (lambda: save_array(good_mask() + 7), 'id_map: {"8": 1, "11": 4}'),
        (lambda: save_array(good_mask((40, 30))), "30 x 40 pixels, the photo is 40 x 30"),
        (lambda: save_array(good_mask((20, 40))), "40 x 20 pixels"),
        (
            lambda: save_picture(np.random.default_rng(0).integers(0, 256, (30, 40, 3)).astype(np.uint8)),
            "different values",
        ),
        (lambda: save_array(np.array([{"a": 1}], object)), "allow_pickle"),
    ],
)
def test_bad_masks(folder, make, words):
    sheet(second=make())
    (problem,), warnings = found()
    assert words in str(problem) and problem.row == 3 and problem.column == "mask" and problem.remedy and not warnings


def test_damaged_mask_files(folder):
    (folder / "x.npy").write_bytes(b"\x93NUMPY\x01")
    (folder / "y.png").write_bytes(encode_png(good_mask((30, 40), np.uint8))[:60])
    sheet("x.npy", "y.png")
    problems, _ = found()
    assert [p.row for p in problems] == [2, 3] and all("cannot be read" in p.message for p in problems)


def test_a_mask_without_a_lesion_is_a_warning(folder):
    sheet(save_array(np.full((16, 16), 4)))
    problems, (warning,) = found()
    assert not problems and "no lesion" in warning.message and warning.row == 2


def test_mask_ids(folder):
    mask = np.zeros((30, 40), np.uint8)
    mask[3:9, 3:9] = 255
    sheet(save_picture(mask))
    (problem,), _ = found()
    assert "255" in problem.message
    ids = {"0": "skin", "255": "lesion"}
    assert found(reading=Reading(id_map(ids))) == ([], [])
    assert found(cohorts={"c": Reading(id_map(ids))}) == ([], [])
    assert main(["check", "--images", "images.csv", "--diseases", "d.csv", "--mask-ids", json.dumps(ids)]) == 0


@pytest.mark.parametrize("bad", [[1], {"a": 1}, {"1": "mole"}, {"1": 5}, 3])
def test_bad_mask_ids(bad):
    with pytest.raises(UserError, match="mask ids"):
        id_map(bad)


def test_bad_photos_are_all_reported(folder):
    whole = encode_png(np.random.default_rng(1).integers(0, 256, (60, 60, 3)))
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    (folder / "text.jpg").write_text("<html>404</html>")
    (folder / "tiny.png").write_bytes(encode_png(np.zeros((4, 4, 3))))
    (folder / "bomb.png").write_bytes(_bomb())
    rows = "".join(
        f"i{i},{name},c,mole,1,True,,\n"
        for i, name in enumerate(["cut.png", "text.jpg", "tiny.png", "no.png", "bomb.png"])
    )
    (folder / "images.csv").write_text(HEADER + rows)
    problems, _ = found()
    assert [(p.row, p.column, p.value) for p in problems] == [
        (2, "file", "cut.png"),
        (3, "file", "text.jpg"),
        (4, "file", "tiny.png"),
        (5, "file", "no.png"),
        (6, "file", "bomb.png"),
    ]
    for problem, words in zip(
        problems, ["image", "image", "only 4 x 4", "no such file", "decompression bomb"], strict=True
    ):
        assert words in problem.message and problem.remedy


def _bomb():
    """A png header that claims 30000 x 30000 pixels."""
    import struct
    import zlib

    body = b"IHDR" + struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))


def test_one_file_in_two_rows(folder):
    sheet(b="./a.png")
    (problem,), _ = found()
    assert problem.row == 3 and "row 2" in problem.message


@pytest.mark.parametrize(("policy", "code"), [("error", 2), ("unlabelled", 0), ("split", 0), (None, 2)])
def test_mixed_malignancy(folder, capsys, policy, code):
    sheet()
    (folder / "e.png").write_bytes((folder / "b.png").read_bytes())
    with open("images.csv", "a") as handle:
        handle.write("e,e.png,c,wart,56,False,,\n")
    (folder / "d.csv").write_text("raw,concept\nmole,spot\nwart,spot\n")
    args = ["check", "--images", "images.csv", "--diseases", "d.csv", "--threads", "1"]
    assert main(args + (["--mixed-malignancy", policy] if policy else [])) == code
    said = capsys.readouterr()
    assert "joins 1 malignant and 2 benign photos (mole, wart)" in (said.err if code else said.out)


def test_sheet_problems_end_with_status_2(folder, capsys):
    sheet(a="")
    assert main(["check", "--images", "images.csv", "--diseases", "d.csv"]) == 2
    assert "row 2, column file: is empty" in capsys.readouterr().err
    assert main(["check", "--images", "images.csv"]) == 2
    assert "--diseases" in capsys.readouterr().err


@pytest.fixture
def photos_only(monkeypatch):
    """Two photos are no run: what else stands against one is for tests/watch/test_start.py."""
    for name, nothing in (("absent", []), ("check_plan", []), ("check_start", ([], [], []))):
        monkeypatch.setattr(f"cgddi.watch.check.{name}", lambda *_, nothing=nothing: nothing)


def test_the_config_names_the_sheets_and_the_policy(folder, photos_only, capsys):
    sheet()
    (folder / "d.csv").write_text("raw,concept\nmole,spot\nwart,spot\n")
    (folder / "config.yaml").write_text("images: images.csv\ndiseases: d.csv\nmixed_malignancy: split\n")
    assert main(["check", "--configfile", "config.yaml", "--threads", "1"]) == 0
    assert "2 photos, 1 concepts" in capsys.readouterr().out
    assert main(["check", "--configfile", "config.yaml", "--mixed-malignancy", "error"]) == 2


def test_the_config_names_mask_ids_for_all_and_for_one_cohort(folder, photos_only, capsys):
    mask = np.zeros((30, 40), np.uint8)
    mask[3:9, 3:9] = 255
    sheet(save_picture(mask))
    base = "images: images.csv\ndiseases: d.csv\n"
    ids = 'masks: {id_map: {"0": 4, "255": 1}}\n'
    for text, code in ((base, 2), (base + ids, 0), (f"{base}cohorts: {{c: {{{ids.strip()}}}}}\n", 0)):
        (folder / "config.yaml").write_text(text)
        assert main(["check", "--configfile", "config.yaml", "--threads", "1"]) == code
    assert "255" in capsys.readouterr().err


def test_a_ddi_shaped_set_is_clean_but_for_its_mixed_concept(folder):
    write_ddi_shaped("data", photos=True)
    paths = ["--metadata", "data/ddi_metadata.csv", "--images", "data/images", "--masks", "data/masks"]
    assert main(["ingest", "ddi", *paths, "--output", "ddi.csv", "--threads", "1"]) == 0
    _, problems, warnings = check("ddi.csv", "builtin:ddi")
    assert [p.column for p in problems] == ["disease"] and "spindle-cell-nevus-of-reed" in problems[0].message
    assert not warnings


def test_given_images_and_adapters_are_opened(tmp_path, monkeypatch):
    import torch
    from cgddi.core.archive import ArchiveWriter
    from cgddi.plan.config import parse_config
    from cgddi.watch.check import check_given
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    save_file({"fc.weight": torch.ones(2, 2)}, "no_adapter.safetensors")
    for name, data in (("whole", b"png"), ("empty", b""), ("torn", b"png")):
        with ArchiveWriter(f"{name}.tar", {"stage": "ingest"}) as archive:
            if data:
                archive.add("x", {"png": data}, {"id": name})
    torn = tmp_path / "torn.tar"
    torn.write_bytes(torn.read_bytes().replace(b"png", b"gnp"))
    config = parse_config(
        {
            "models": {"base": {"source": "someone/base"}},
            "synthetic": {name: {"archive": f"{name}.tar"} for name in ("whole", "empty", "torn")},
            "adapters": {
                "nevus": {"source": "no_adapter.safetensors", "embedding": None, "words": "mole"},
                "acne": {"source": "someone/acne"},
            },
        }
    )
    problems, warnings = (list(map(str, found)) for found in check_given(config))
    assert len(problems) == 3 and "synthetic.empty: empty.tar: holds no image" in problems[0]
    assert "synthetic.torn: torn.tar: image x does not match its manifest" in problems[1]
    assert "adapters.nevus: no_adapter.safetensors: holds no LoRA of a denoiser" in problems[2]
    assert "models.base: the base model is not on this disk" in warnings[0]
    assert "adapters: not on this disk yet: acne. Run `cgddi fetch`" in warnings[1]
