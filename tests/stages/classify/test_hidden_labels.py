"""P13: a corrected label of a test photo changes the tables, and not a byte of the index or the classifier."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from cgddi.core.archive import write_record
from cgddi.core.errors import UserError
from cgddi.stages.audit.command import main as audit
from cgddi.stages.classify.command import main as classify
from cgddi.stages.fairness.command import tabulate
from cgddi.stages.fairness.settings import FairnessSettings
from cgddi.stages.index.command import main as make_index

from tests.stages.index.world import CONCEPTS, make_world, spec_file

NET = {"backbone": "test_resnet", "weights": "random", "epochs": 1, "batch_size": 16, "learning_rate": 3e-3}
PIXELS = {"features": {"weights": "pixels"}}
TABLES = FairnessSettings(test_sets=100)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


def labels_of(world, roles=("train", "validation"), **changes):
    """Rows `labels` of a spec; `changes` are concept, tone and malignant of single photos."""
    rows = []
    for image, (tone, concept) in world.facts.items():
        concept, tone, malignant = changes.get(image, (concept, tone, CONCEPTS[concept]))
        if world.roles[image] in roles:
            rows.append({"image_id": image, "concept": concept, "tone": tone, "malignant": malignant})
    return rows


def train(world, folder, labels, task="malignancy", **settings):
    """Index, gate and classifier from photos whose archive tells no label."""
    folder.mkdir()
    photos = folder / "photos.tar"
    for path in Path(world.photos[0]).parent.glob("photos.*"):
        shutil.copy(path, folder / path.name)
    rows = [json.loads(line) for line in photos.with_suffix(".jsonl").read_text().splitlines()]
    for row in rows:
        for name in ("concept", "tone", "malignant"):
            del row[name]
    photos.with_suffix(".jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    record = json.loads(photos.with_suffix(".json").read_text())
    write_record(photos.with_suffix(".json"), record, [photos.with_suffix(".jsonl"), photos])
    index, gate, out = folder / "index.parquet", folder / "leakage.json", folder / "out"
    given = world.index_args(index)
    given[given.index(world.photos[0])] = str(photos)
    make_index(["--spec", spec_file(folder, stage="index", split="toy", labels=labels), *given])
    audit(
        [
            "leakage",
            "--spec",
            spec_file(folder, stage="audit", settings=PIXELS),
            "--index",
            str(index),
            "--output",
            str(gate),
        ]
    )
    options = {"image_size": 32, "precision": "fp32", "min_concept_images": 1, "training": NET, "images_per_epoch": 32}
    options |= {"task": task, **settings}
    spec = {"seed": 7, "split": "toy", "regime": "real", "method": "baseline", "run_seed": 1, "settings": options}
    given = ["--index", str(index), "--leakage", str(gate), "--threads", "1", "--output-dir", str(out)]
    classify(["--spec", spec_file(folder, stage="classify", **spec), *given])
    return out


PARTS = {"nevus": "spot", "wart": "lump", "melanoma": "spot", "lymphoma": "lump"}


@pytest.fixture(scope="module")
def plain(world, tmp_path_factory):
    """A classifier of malignancy that knows no label of a test photo."""
    return train(world, tmp_path_factory.mktemp("plain") / "run", labels_of(world))


@pytest.mark.parametrize(("task", "settings"), [("malignancy", {}), ("partition", {"partition": PARTS})])
def test_the_tables_are_those_of_predictions_that_tell_the_labels(world, plain, tmp_path, task, settings):
    every = ("train", "validation", "test")
    told = train(world, tmp_path / "told", labels_of(world, every), task, **settings)
    hidden = train(world, tmp_path / "hidden", labels_of(world), task, **settings) if settings else plain
    assert (told / "weights.safetensors").read_bytes() == (hidden / "weights.safetensors").read_bytes()
    table = pd.read_csv(hidden / "predictions.csv")
    assert not {"concept", "tone", "malignant", "label"} & set(table) and len(table) == 12
    labels = {row.pop("image_id"): row for row in labels_of(world, ("test",))}
    files, _ = tabulate([str(hidden / "predictions.csv")], TABLES, 1, labels=labels)
    expected, _ = tabulate([str(told / "predictions.csv")], TABLES, 1)
    for name in ("metrics.csv", "by_rarity.csv", "by_disease.csv"):
        assert files[name] == expected[name], name
    with pytest.raises(UserError, match="nothing is known of test image"):
        tabulate([str(hidden / "predictions.csv")], TABLES, 1, labels={"x": {}})


def test_a_corrected_label_changes_the_tables_and_no_byte_of_what_is_trained(world, plain, tmp_path):
    """By hand: one benign photo of 12 is malignant after all, another of unknown malignancy, a third of another tone."""
    changed = {"nel4": ("nevus", "light", True), "nem4": ("nevus", "medium", None), "ned4": ("nevus", "light", False)}
    assert {world.roles[image] for image in changed} == {"test"}
    first, second = plain, train(world, tmp_path / "again", labels_of(world, **changed))
    for name in ("weights.safetensors", "predictions.csv"):
        assert (first / name).read_bytes() == (second / name).read_bytes()
    assert (
        pd.read_parquet(first.parent / "index.parquet")
        .drop(columns="archive")
        .equals(pd.read_parquet(second.parent / "index.parquet").drop(columns="archive"))
    )
    counts = []
    for more in ({}, changed):
        labels = {row.pop("image_id"): row for row in labels_of(world, ("test",), **more)}
        files, _ = tabulate([str(first / "predictions.csv")], TABLES, 1, labels=labels)
        (tmp_path / "metrics.csv").write_text(files["metrics.csv"])
        rows = pd.read_csv(tmp_path / "metrics.csv").query("metric == 'accuracy'").set_index("group")
        counts.append({group: tuple(rows.loc[group, ["images", "images_malignant"]]) for group in rows.index})
    assert counts[0] == {"all": (12, 6), "light": (4, 2), "medium": (4, 2), "dark": (4, 2)}
    assert counts[1] == {"all": (11, 7), "light": (5, 3), "medium": (3, 2), "dark": (3, 2)}


def test_epochs_cannot_be_chosen_by_labels_that_are_not_told(world, tmp_path):
    with pytest.raises(UserError, match="labels the index does not tell"):
        train(world, tmp_path / "x", labels_of(world), selection="test")
