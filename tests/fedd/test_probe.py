"""`cgddi fedd probe`: many small networks at once, each as if it were alone."""

import copy
import csv

import pytest
from cgddi.core.errors import InvalidInput, UserError
from sklearn.metrics import roc_auc_score

from tests.fedd.specs import train
from tests.fedd.study import make_study

PER_TONE = {"train": 10, "validation": 6, "test": 6}


def probe(spec, features, output):
    record = train("probe", spec, features, output)
    with open(output / "predictions.csv", newline="") as handle:
        return record, list(csv.DictReader(handle))


def auc(lines, block, role="test"):
    mine = [line for line in lines if line["block"] == str(block) and line["role"] == role]
    return roc_auc_score([line["malignant"] == "true" for line in mine], [float(line["probability"]) for line in mine])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A study whose block 2 tells malignant from benign and whose block 1 does not."""
    folder = tmp_path_factory.mktemp("probe")
    spec = {**make_study(folder, 0.4, PER_TONE), "settings": {"epochs": 150}, "seeds": [0, 1]}
    return folder, spec, *probe(spec, folder, folder / "run")


def test_it_learns_where_there_is_something_to_learn(world) -> None:
    folder, spec, record, lines = world
    assert auc(lines, 2) > 0.9 and auc(lines, 2, "validation") > 0.9
    assert abs(auc(lines, 1) - 0.5) < 0.3
    assert len(lines) == (18 + 18) * 2 * 2 and {line["role"] for line in lines} == {"validation", "test"}
    assert record["blocks"] == [1, 2] and record["seeds"] == [0, 1] and record["subset"] == "20"
    assert record["training_images"] == sorted(row["image_id"] for row in spec["train"])
    assert record["counts"]["train"]["light"] == {"images": 10, "malignant": 5}
    losses = {(line["block"], line["seed"]): line["validation_loss"] for line in record["probes"]}
    assert losses[2, 0] < 0.5 < losses[1, 0]


def test_same_bytes_and_nothing_learnt_from_the_test(world, tmp_path) -> None:
    folder, spec, _, lines = world
    probe(spec, folder, tmp_path / "again")
    for name in ("predictions.csv", "record.json"):
        assert (folder / "run" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    untold = [{name: value for name, value in row.items() if name != "malignant"} for row in spec["test"]]
    _, blind = probe({**spec, "test": untold}, folder, tmp_path / "blind")
    assert [x | {"malignant": ""} for x in lines if x["role"] == "test"] == [x for x in blind if x["role"] == "test"]
    _, fewer = probe({**spec, "test": spec["test"][:1]}, folder, tmp_path / "fewer")
    assert [x for x in fewer if x["role"] == "validation"] == [x for x in lines if x["role"] == "validation"]


def broken(spec, name):
    """A spec with one thing wrong; returns the words of the error."""
    if name == "label":
        spec["validation"][2]["malignant"] = None
        return "validation-light-2: malignancy is unknown"
    if name == "stranger":
        spec["validation"].append({**spec["train"][0], "image_id": "stranger"})
        return "stranger: no pooled features of block 1, 2"
    if name == "one class":
        spec["train"] = [row for row in spec["train"] if not row["malignant"]]
        return "all training photos of subset 20 are benign"
    if name == "timestep":
        spec["timestep"] = 50
        return "timestep 100, and the study is of 50"
    if name == "twice":
        spec["train"].append(spec["train"][0])
        return "train-light-0: is listed"
    spec["settings"] = {"hidden": [64]}
    return "hidden"


@pytest.mark.parametrize("name", ["label", "stranger", "one class", "timestep", "twice", "setting"])
def test_bad_input(world, tmp_path, name) -> None:
    folder, spec, *_ = world
    spec = copy.deepcopy(spec)
    words = broken(spec, name)
    with pytest.raises((UserError, InvalidInput), match=words):
        probe(spec, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()
