"""The exported data set: read by datasets, webdataset and mlcroissant themselves, the same bytes each time, every image once,
what the index and the archives say; the first concept's unknown malignancy breaks no reader (L8)."""

from __future__ import annotations

import io
import json
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import yaml
from cgddi.core.archive import Archive, sha256
from cgddi.core.errors import UserError
from cgddi.stages.export import command, shards
from cgddi.stages.index.table import build_index, read_roles
from PIL import Image

from tests.stages.index.world import make_world

KINDS = ("healthy", "lesion_mapped", "semantic")
NAMES = {"nevus": "Naevus", "wart": "Wart", "melanoma": "Melanoma", "lymphoma": "Lymphoma"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A split whose first concept (by name: lymphoma) has no known malignancy, and an export with its photos in shards of 7."""
    root = tmp_path_factory.mktemp("world")
    world = make_world(root)
    index = build_index(read_roles([world.split]), world.photos, [*world.healthy, *world.mapped, *world.semantic])[0]
    index.loc[index["concept"] == "lymphoma", "malignant"] = pd.NA
    index.sample(frac=1, random_state=1).to_parquet(root / "index.parquet")
    manifest = {
        row["id"]: (archive, row)
        for path in [*world.photos, *world.healthy, *world.mapped, *world.semantic]
        for archive in [Archive(path)]
        for row in archive.rows
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards, "SHARD", 7)
        patch.setattr(shards, "GROUP", 3)
        export(root, root / "export", kinds=[*KINDS, "real"])
    return root, index.set_index("id"), manifest


def export(root, folder, names=NAMES, index=None, **settings):
    spec = {"stage": "export", "seed": 0, "split": "main", "names": names, "settings": settings}
    (root / "spec.json").write_text(json.dumps(spec))
    index = index or root / "index.parquet"
    command.main(["--spec", str(root / "spec.json"), "--index", str(index), "--output-dir", str(folder)])


def load(folder, *which, **options):
    import datasets

    datasets.disable_progress_bars()
    return datasets.load_dataset(str(folder), *which, **options)


def read_tars(folder):
    """Samples by webdataset's own reader, in its order."""
    import webdataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(webdataset.WebDataset([str(path) for path in sorted(folder.rglob("*.tar"))], shardshuffle=False))


def test_load_dataset_gives_every_image_once_with_its_facts(made, tmp_path):
    root, index, manifest = made
    for kind in (*KINDS, "real"):
        parts = load(root / "export", kind, cache_dir=str(tmp_path))
        assert set(parts) == set(index[index["kind"] == kind]["role"])
        for role, part in parts.items():
            wanted = index[(index["kind"] == kind) & (index["role"] == role)]
            assert sorted(part["id"]) == sorted(wanted.index)
            assert len(list((root / f"export/data/{kind}").glob(f"{role}-*.parquet"))) == -(-len(wanted) // 7)
            for row in part:
                archive, told = manifest[row["id"]]
                assert np.array_equal(row["image"], Image.open(io.BytesIO(archive.read(told))))
                assert row["sha256"] == told["sha256"] and (row["tone"], row["concept"]) == (
                    told["tone"],
                    told["concept"],
                )
                known = index.loc[row["id"], "malignant"]
                assert row["malignant"] is (None if pd.isna(known) else bool(known))
                assert row["disease"] == NAMES.get(row["concept"], "healthy")
                for name in ("donor", "canvas", "prompt", "seed", "generator"):
                    assert row[name] == told.get(name), name
                assert json.loads(row["scores"] or "null") == told.get("scores")
                if "mask.png" in told["members"]:
                    assert np.array_equal(row["mask"], Image.open(io.BytesIO(archive.read(told, "mask.png"))))
                else:
                    assert row["mask"] is None


def test_the_default_config_has_all_kinds_and_streams(made):
    root, index, _ = made
    everything = load(root / "export", streaming=True)
    assert list(everything) == ["train", "validation", "test"]
    ids = {role: [row["id"] for row in part] for role, part in everything.items()}
    assert {role: sorted(found) for role, found in ids.items()} == {
        role: sorted(index[index["role"] == role].index) for role in ids
    }


def test_columns_are_declared_and_hold_no_guess(made, tmp_path):
    """The first shard of healthy skin has not one malignancy, donor, prompt or seed."""
    import pyarrow.parquet as pq

    root = made[0]
    features = load(root / "export", "healthy", split="train", cache_dir=str(tmp_path)).features
    assert features == load(root / "export", "semantic", split="train", cache_dir=str(tmp_path)).features
    assert [features[name].dtype for name in ("malignant", "seed", "donor")] == ["bool", "int64", "string"]
    plain = {str(pq.read_schema(path)) for path in (root / "export/data").rglob("*.parquet")}
    assert len(plain) == 1, "all shards have one schema, whoever reads them"
    everything = load(root / "export", split="train", cache_dir=str(tmp_path))
    assert set(everything["malignant"]) == {True, False, None}


def test_webdataset_reads_it_and_no_key_stands_twice(made):
    root, index, _ = made
    samples = read_tars(root / "export/webdataset")
    assert len(samples) == len(index) == len({sample["__key__"] for sample in samples})
    kinds_of_values = {}
    for sample in samples:
        told = json.loads(sample["json"])
        assert sha256(sample["png"]) == told["sha256"] == index.loc[told["id"], "sha256"]
        known = index.loc[told["id"], "malignant"]
        assert told["malignancy"] == ("unknown" if pd.isna(known) else "malignant" if known else "benign")
        for name, value in told.items():
            kinds_of_values.setdefault(name, set()).add(type(value))
    assert {name: len(kinds) for name, kinds in kinds_of_values.items() if len(kinds) > 1} == {}
    semantic = sorted((root / "export/webdataset/semantic").glob("*.tar"))
    parts = load("webdataset", data_files={"train": [str(path) for path in semantic]}, streaming=True)
    assert len(list(parts["train"])) == (index["kind"] == "semantic").sum(), "a reader that guesses types reads it too"


def test_mlcroissant_validates_and_reads_it(made):
    import mlcroissant

    root, index, _ = made
    described = mlcroissant.Dataset(str(root / "export/croissant.json"))
    assert not described.metadata.ctx.issues.errors
    rows = list(described.records("real"))
    assert {row["real/id"].decode(): row["real/split"].decode() for row in rows} == dict(
        index[index["kind"] == "real"]["role"]
    )
    assert rows[0]["real/image"].size == (40, 40)
    for file in described.metadata.file_objects:
        assert file.sha256 == sha256((root / "export" / file.content_url).read_bytes())


def test_the_same_export_gives_the_same_bytes_and_replaces_an_earlier_one(made, tmp_path):
    root, index, _ = made
    export(root, tmp_path / "a")
    export(root, tmp_path / "b", kinds=["real", "semantic"])
    export(root, tmp_path / "b")
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*") if path.is_file()} == set(files)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    assert not (tmp_path / "a/data/real").exists(), "photos only where asked for"
    split = pd.read_csv(tmp_path / "a/split.csv")
    real = index[index["kind"] == "real"]
    assert dict(zip(split["image_id"], split["role"], strict=True)) == dict(
        zip(real["image_id"], real["role"], strict=True)
    )


def test_the_card_counts_and_says_what_a_reader_must_know(made, tmp_path):
    root, index, _ = made
    text = (root / "export/README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert [c["config_name"] for c in head["configs"]] == ["default", "healthy", "lesion_mapped", "real", "semantic"]
    assert "&id" not in text
    cells = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    for concept, name in NAMES.items():
        per = [
            " / ".join(
                str(((index["kind"] == kind) & (index["concept"] == concept) & (index["tone"] == tone)).sum())
                for tone in ("light", "medium", "dark")
            )
            for kind in ("healthy", "lesion_mapped", "real", "semantic")
        ]
        assert cells[name] == f"| {name} | {' | '.join(per)} |"
    roles = [
        str(((index["kind"] == "real") & (index["role"] == role)).sum()) for role in ("train", "validation", "test")
    ]
    assert cells["real"] == f"| real | {' | '.join(roles)} |"
    for words in (
        "**Private.**",
        "## Licences",
        "## Limits",
        "@inproceedings{carrion2026cgddi",
        "DDI's (research use) forbids",
    ):
        assert words in text
    export(root, tmp_path, private=False, license="cc-by-4.0", name="my-set", formats=["webdataset"])
    text = (tmp_path / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert "Private" not in text and (head["license"], head["pretty_name"]) == ("cc-by-4.0", "my-set")
    assert head["configs"][0]["data_files"] == [{"split": "train", "path": "webdataset/*/train-*.tar"}]
    assert not (tmp_path / "data").exists() and not (tmp_path / "croissant.json").exists()


def test_the_usage_lines_of_the_card_run(made, monkeypatch, capsys):
    root = made[0]
    monkeypatch.chdir(root)
    blocks = re.findall(r"```python\n(.*?)```", (root / "export/README.md").read_text(), re.S)
    assert len(blocks) == 2
    for block in blocks:
        names: dict = {}
        exec(block, names)
        if "pairs" in names:
            picture, told = next(iter(names["pairs"]))
            assert picture.size == (40, 40) and told["kind"] == "semantic"
    assert "(40, 40)" in capsys.readouterr().out


def test_a_changed_image_and_a_kind_that_is_not_there_are_refused(made, tmp_path):
    root = made[0]
    with pytest.raises(UserError, match="Name other kinds"):
        export(root, tmp_path, kinds=["nosuch"])
    pd.read_parquet(root / "index.parquet").assign(sha256="0" * 64).to_parquet(tmp_path / "wrong.parquet")
    with pytest.raises(UserError, match="does not match the index"):
        export(root, tmp_path / "out", index=tmp_path / "wrong.parquet")
