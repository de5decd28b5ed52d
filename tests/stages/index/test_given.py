"""Images that others generated, in the index, at the gate and in a classifier's rows: what is known of them decides."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cgddi.core.archive import ArchiveWriter
from cgddi.core.bootstrap import Run
from cgddi.core.errors import UserError
from cgddi.core.images import encode_png
from cgddi.core.lineage import generator_images, real_lineage
from cgddi.stages.audit.copies import near_duplicates
from cgddi.stages.audit.leakage import audit_leakage, explain
from cgddi.stages.audit.settings import AuditSettings
from cgddi.stages.classify.rows import choose_rows
from cgddi.stages.classify.settings import ClassifySettings, Regime
from cgddi.stages.index.command import main
from cgddi.stages.index.table import build_index, read_roles

from tests.stages.index.world import CONCEPTS, make_world, picture, spec_file

PIXELS = AuditSettings.model_validate({"features": {"weights": "pixels"}, "near_duplicates": "off"})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def image(kind, *, donor=None, canvas=None, generator=None, unknown=(), tone="dark", malignant=None, concept="nevus"):
    ways = {"donor": donor, "canvas": canvas, "generator": generator, "unknown": list(unknown)}
    return {"kind": kind, "tone": tone, "malignant": malignant, "concept": concept, "cohort": "release", **ways}


def give(folder: Path, images: dict[str, dict], generators=None, unknown_generators=(), pixels=None) -> str:
    """An archive of given images as `cgddi ingest synthetic` writes it."""
    folder.mkdir(exist_ok=True)
    with ArchiveWriter(folder / "release.tar", {"stage": "ingest"}) as archive:
        archive.facts = {"generators": generators or {}, "unknown_generators": list(unknown_generators)}
        for number, (name, row) in enumerate(images.items()):
            shown = (pixels or {}).get(name, picture(row["tone"] or "light", "nevus", 70_000 + number)[0])
            archive.add(name, {"png": encode_png(shown)}, {"id": f"given/release/{name}", **row})
    return str(folder / "release.tar")


TRAIN, TEST, ELSEWHERE = "nel0", "nel4", "zz9"
CASES = {  # name -> (image, why it must stay out; "" when it may be learnt from)
    "healthy": (image("healthy", canvas=TRAIN, concept="healthy"), ""),
    "healthy-test": (image("healthy", canvas=TEST, concept="healthy"), "canvas is a test image"),
    "healthy-unknown": (image("healthy", unknown=["canvas"], concept="healthy"), "canvas is not known"),
    "mapped": (image("lesion_mapped", donor=TRAIN, canvas=TRAIN), ""),
    "mapped-donor": (image("lesion_mapped", donor=TEST, canvas=TRAIN), "donor is a test image"),
    "mapped-stranger": (image("lesion_mapped", donor=ELSEWHERE, canvas=TRAIN), "donor is not in this split"),
    "mapped-unknown": (image("lesion_mapped", canvas=TRAIN, unknown=["donor"]), "donor is not known"),
    "clean": (image("semantic", canvas=TRAIN, generator="clean"), ""),
    "no-canvas": (image("semantic", generator="clean"), ""),
    "touched": (
        image("semantic", canvas=TRAIN, generator="touched"),
        "generator saw an image that is not for training",
    ),
    "mystery": (image("semantic", canvas=TRAIN, generator="mystery", unknown=["generator"]), "generator is not known"),
    "no-tone": (image("semantic", canvas=TRAIN, generator="clean", tone=None), "skin tone is not known"),
}
GENERATORS = {"clean": [TRAIN], "touched": [TRAIN, TEST]}


def indexed(world, folder, cases=None, waived=(), **options):
    path = give(folder, {n: row for n, (row, _) in (cases or CASES).items()}, GENERATORS, ["mystery"])
    return build_index(
        read_roles([world.split]), world.photos, world.semantic, given={"release": path}, waived=waived, **options
    )


def names(table):
    return set(table["id"][table["source"] == "release"].str.rpartition("/")[2])


def test_what_may_be_learnt_from(world, tmp_path):
    table, facts = indexed(world, tmp_path)
    assert names(table) == {name for name, (_, why) in CASES.items() if not why}
    reasons = [f"release/{row['kind']}: {why}" for row, why in CASES.values() if why]
    given = {why: n for why, n in facts["dropped"].items() if why.startswith("release/")}
    assert sum(given.values()) == len(reasons)
    assert all(any(found.startswith(why) for found in given) for why in reasons)
    assert set(table["source"][table["kind"] == "real"]) == {"real"} and not table["unknown"].any()
    assert generator_images(table[table["source"] == "release"]) == {"clean": {TRAIN}}
    assert TEST not in real_lineage(table[table["role"] == "train"])
    assert audit_leakage(table, PIXELS, 0)["clean"]


def test_a_waiver_lets_the_unknown_in_and_nothing_else(world, tmp_path):
    waived, _ = indexed(world, tmp_path, waived=["release"])
    plain, _ = indexed(world, tmp_path)
    assert names(waived) - names(plain) == {"healthy-unknown", "mapped-unknown", "mystery"}
    assert set(waived["id"][waived["unknown"]].str.rpartition("/")[2]) == {
        "healthy-unknown",
        "mapped-unknown",
        "mystery",
    }
    assert generator_images(waived[waived["source"] == "release"]) == {"clean": {TRAIN}, "mystery": set()}
    other, _ = indexed(world, tmp_path, waived=["adapters.nevus", "elsewhere"])
    assert names(other) == names(plain)
    found = audit_leakage(waived, PIXELS, 0, waived=["release"])
    assert found["passed"] and found["clean"] and found["waived"] == {"release": 3}


def test_the_gate_does_not_believe_the_index(world, tmp_path):
    """It reads from the archive that nobody knows the lineage, and stops unless the waiver stands in its own spec."""
    waived, _ = indexed(world, tmp_path, waived=["release"])
    found = audit_leakage(waived.assign(unknown=False), PIXELS, 0)
    assert not found["passed"] and not found["clean"]
    assert {(leak["id"].rpartition("/")[2], leak["way"], leak["image"]) for leak in found["leaks"]} == {
        ("healthy-unknown", "unknown lineage", "canvas"),
        ("mapped-unknown", "unknown lineage", "donor"),
        ("mystery", "unknown lineage", "generator"),
    }
    assert "given/release/mystery" in explain(found) and "its generator is not known" in explain(found)


def test_malignancy_that_is_not_told_is_that_of_the_training_photos_or_missing(world, tmp_path):
    cases = {
        "told": (image("semantic", generator="clean", malignant=True), ""),
        "agreed": (image("semantic", generator="clean", concept="melanoma"), ""),
        "stranger": (image("semantic", generator="clean", concept="lipoma"), ""),
        "healthy": (image("healthy", canvas=TRAIN, concept="healthy"), ""),
    }
    table, _ = indexed(world, tmp_path, cases)
    found = dict(zip(table["id"].str.rpartition("/")[2], table["malignant"], strict=True))
    assert bool(found["told"]) and bool(found["agreed"])
    assert pd.isna(found["stranger"]) and pd.isna(found["healthy"])


@pytest.mark.parametrize(
    ("photo", "label", "agreed"), [("mel0", None, None), ("nel0", None, None), ("mel0", False, None), ("mel4", False, True)],
    ids=["unknown of one", "unknown of one benign", "one is benign", "a test photo is benign"],
)  # fmt: skip
def test_the_training_photos_agree_where_each_is_known_and_says_the_same(world, tmp_path, photo, label, agreed):
    labels = {
        image: {"concept": concept, "tone": tone, "malignant": CONCEPTS[concept]}
        for image, (tone, concept) in world.facts.items()
    }
    concept = labels[photo]["concept"]
    assert world.roles["mel0"] == "train" and world.roles["mel4"] == "test"
    labels[photo]["malignant"] = label
    cases = {"asked": (image("semantic", generator="clean", concept=concept), "")}
    table, _ = indexed(world, tmp_path, cases, labels=labels)
    (found,) = table["malignant"][table["source"] == "release"]
    assert (None if pd.isna(found) else bool(found)) is agreed


def test_a_concept_that_the_run_splits_by_malignancy_is_found_by_its_part(world, tmp_path):
    renamed = tmp_path / "photos.tar"
    with ArchiveWriter(renamed, {"stage": "masks"}) as archive:
        for name, concept in (("a", "mole-malignant"), ("b", "mole-benign"), ("c", "wart")):
            about = {"kind": "real", "cohort": "x", "tone": "dark", "malignant": concept == "mole-malignant"}
            archive.add(name, {"png": name.encode()}, {"id": name, "image_id": name, "concept": concept, **about})
    cases = {
        "bad": image("semantic", generator="clean", malignant=True, concept="mole"),
        "good": image("semantic", generator="clean", malignant=False, concept="mole"),
        "either": image("semantic", generator="clean", concept="mole"),
        "wart": image("semantic", generator="clean", malignant=True, concept="wart"),
    }
    path = give(tmp_path / "set", cases, {"clean": []})
    table, _ = build_index(dict.fromkeys("abc", "train"), [renamed], [], given={"release": path})
    found = {row.id.rpartition("/")[2]: row.concept for row in table[table["source"] == "release"].itertuples()}
    assert found == {"bad": "mole-malignant", "good": "mole-benign", "either": "mole", "wart": "wart"}


def test_a_test_photo_among_given_images_is_found(world, tmp_path):
    """Whatever its kind and name: turned, and with other bytes."""
    number = list(world.facts).index(TEST)
    shown = picture(*world.facts[TEST], number)[0]
    cases = {"copy": (image("semantic", generator="clean"), ""), "own": (image("semantic", generator="clean"), "")}
    path = give(
        tmp_path, {n: row for n, (row, _) in cases.items()}, GENERATORS, pixels={"copy": np.rot90(shown).copy()}
    )
    table, _ = build_index(read_roles([world.split]), world.photos, [], given={"release": path})
    settings = AuditSettings.model_validate({"features": {"weights": "pixels"}})
    found = near_duplicates(table, settings, 0)
    assert [(pair["id"], pair["image"]) for pair in found] == [("given/release/copy", TEST)]


def test_regimes_name_a_set_or_a_kind_of_it(world, tmp_path):
    table, _ = indexed(world, tmp_path, waived=["release"])
    settings = ClassifySettings(min_concept_images=1)

    def learnt(*sources):
        return set(choose_rows(table, Regime(name="x", sources=sources), settings, 0).train["source"])

    assert learnt("semantic") == {"semantic"} and learnt("real", "semantic") == {"real", "semantic"}
    whole = choose_rows(table, Regime(name="x", sources=("semantic", "release")), settings, 0)
    assert set(whole.train["source"]) == {"semantic", "release"}
    part = choose_rows(table, Regime(name="x", sources=("real", "release/lesion_mapped")), settings, 0)
    assert names(part.train) == {"mapped", "mapped-unknown"}
    with pytest.raises(UserError, match="the index has no nosuch images"):
        learnt("real", "nosuch")


def test_the_command_reads_the_sets_of_its_spec(world, tmp_path):
    path = give(tmp_path, {n: row for n, (row, _) in CASES.items()}, GENERATORS, ["mystery"])
    spec = {"stage": "index", "seed": 1, "split": "toy", "given": {"release": path.replace(".tar", ".jsonl")}}
    for waived, more in ([], 0), (["release"], 3):
        main(["--spec", spec_file(tmp_path, **spec, waived=waived), *world.index_args(tmp_path / "x.parquet")])
        table = pd.read_parquet(tmp_path / "x.parquet")
        assert len(names(table)) == sum(not why for _, why in CASES.values()) + more
    assert path.replace(".tar", ".jsonl") in json.loads((tmp_path / "x.json").read_text())["inputs"]


@pytest.mark.parametrize("count", [0, 3])
def test_every_run_that_learnt_from_the_unknown_is_marked(count):
    record = {
        "selection": "validation",
        "leakage": {"gate": "enforce", "clean": True, "unknown_lineage": count},
        "real_images": {"used": 1, "beyond": 0},
    }
    run = Run("x", record, pd.DataFrame(), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0))
    assert ("lineage waived: given images or adapters may have seen test images" in run.caveats) == bool(count)
