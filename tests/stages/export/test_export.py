"""The exported data set: read by webdataset, the same bytes each time, every image once, what an index says and no null."""

from __future__ import annotations

import json
import warnings

import pandas as pd
import pytest
import yaml
from cgddi.core.archive import sha256
from cgddi.core.errors import UserError
from cgddi.stages.export import command
from cgddi.stages.index.table import build_index, read_roles

from tests.stages.index.world import make_world


@pytest.fixture(scope="module")
def indexes(tmp_path_factory):
    """Two splits that share most images; the healthy ones have no malignancy, and stand first."""
    root = tmp_path_factory.mktemp("world")
    world = make_world(root)
    index = build_index(read_roles([world.split]), world.photos, [*world.healthy, *world.mapped, *world.semantic])[0]
    for name, part in (("a", index.iloc[:150]), ("b", index.iloc[60:])):
        part.sample(frac=1, random_state=1).to_parquet(root / f"{name}.parquet")
    return root, index


def export(root, folder, **settings):
    spec = {"stage": "export", "seed": 0, "versions": {}, "settings": settings}
    (root / "spec.json").write_text(json.dumps(spec))
    adapter = root / "lora/main/nevus/pytorch_lora_weights.safetensors"
    token = root / "embedding/main/nevus/learned_embeds.safetensors"
    for path in (adapter, token):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(path.name.encode())
    files = ["--index", str(root / "a.parquet"), str(root / "b.parquet"), "--lora", str(adapter)]
    files += ["--embedding", str(token), "--output-dir", str(folder)]
    command.main(["--spec", str(root / "spec.json"), *files])


def read(folder):
    """Samples by webdataset's own reader, in its order."""
    import webdataset

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return list(webdataset.WebDataset([str(path) for path in sorted(folder.glob("*.tar"))], shardshuffle=False))


def test_webdataset_reads_every_image_once_with_its_facts(indexes, tmp_path, monkeypatch):
    root, index = indexes
    monkeypatch.setattr(command, "SHARD", 7)
    export(root, tmp_path)
    for kind in ("healthy", "lesion_mapped", "semantic"):
        wanted = index[index["kind"] == kind].set_index("id").sort_index()
        samples = read(tmp_path / "data" / kind)
        assert [len(read_part) for read_part in (samples, {s["__key__"] for s in samples})] == [len(wanted)] * 2
        assert len(list((tmp_path / "data" / kind).glob("*.tar"))) == -(-len(wanted) // 7)
        facts = [json.loads(sample["json"]) for sample in samples]
        assert [f["id"] for f in facts] == list(wanted.index), "sorted by id through all shards"
        for sample, fact, row in zip(samples, facts, wanted.itertuples(), strict=True):
            assert sha256(sample["png"]) == fact["sha256"] == row.sha256
            assert (fact["kind"], fact["tone"], fact["concept"], fact["cohort"]) == (kind, row.tone, row.concept, "toy")
            unknown = pd.isna(row.malignant)
            assert fact["malignancy"] == ("unknown" if unknown else "malignant" if row.malignant else "benign")
            assert fact["donor"] == ("" if pd.isna(row.donor) else row.donor)
            assert None not in fact.values()
    assert not (tmp_path / "data/real").exists(), "photos only where asked for"


def test_a_shard_holds_a_thousand_images_and_keys_repeat_in_no_other(indexes, tmp_path):
    row = indexes[1].iloc[0].to_dict() | {"donor": None, "canvas": None, "generator": None, "malignant": None}
    command.write_shards(tmp_path / "healthy", [row | {"id": f"image {n}"} for n in range(1001)])
    samples = read(tmp_path / "healthy")
    assert {sample["__url__"].rpartition("/")[2] for sample in samples[:1000]} == {"00000.tar"}
    assert len({sample["__key__"] for sample in samples}) == 1001 and samples[1000]["__url__"].endswith("00001.tar")


def test_the_same_export_gives_the_same_bytes_and_replaces_an_earlier_one(indexes, tmp_path):
    root, index = indexes
    export(root, tmp_path / "a")
    export(root, tmp_path / "b", kinds=["real", "semantic"])
    assert len(read(tmp_path / "b/data/real")) == (index["kind"] == "real").sum()
    export(root, tmp_path / "b")
    files = [path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()]
    assert {path.relative_to(tmp_path / "b") for path in (tmp_path / "b").rglob("*") if path.is_file()} == set(files)
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name
    adapters = tmp_path / "a/adapters/main/nevus"
    assert {p.name for p in adapters.iterdir()} == {"pytorch_lora_weights.safetensors", "learned_embeds.safetensors"}


def test_the_card_says_what_the_hub_and_a_reader_need(indexes, tmp_path):
    root, index = indexes
    export(root, tmp_path, name="my-set", license="cc-by-4.0")
    text = (tmp_path / "README.md").read_text()
    head = yaml.safe_load(text.split("---")[1])
    assert (head["license"], head["pretty_name"]) == ("cc-by-4.0", "my-set")
    kinds = ("healthy", "lesion_mapped", "semantic")
    assert head["configs"] == [{"config_name": kind, "data_files": f"data/{kind}/*.tar"} for kind in kinds]
    for kind in kinds:
        assert f"| {kind} | {(index['kind'] == kind).sum()} |" in text
    assert "**Private.**" in text and "Adapters: 1," in text
    export(root, tmp_path, private=False)
    assert "Private" not in (tmp_path / "README.md").read_text()
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["images"] == {kind: int((index["kind"] == kind).sum()) for kind in kinds} and record["adapters"] == 1


def test_a_changed_image_and_a_kind_that_is_not_there_are_refused(indexes, tmp_path):
    root, index = indexes
    with pytest.raises(UserError, match="Name other kinds"):
        export(root, tmp_path, kinds=["nosuch"])
    table = pd.read_parquet(root / "a.parquet")
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for name in ("a", "b"):
        table.assign(sha256="0" * 64).to_parquet(wrong / f"{name}.parquet")
    with pytest.raises(UserError, match="does not match the index"):
        export(wrong, tmp_path / "out")
