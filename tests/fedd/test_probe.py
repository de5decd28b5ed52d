"""`cgddi fedd probe`: many small networks at once, each as if it were alone."""

import copy
import csv
import json

import numpy as np
import pytest
import torch
from cgddi.core.errors import InvalidInput, UserError
from cgddi.fedd.command import main
from cgddi.fedd.features.files import FeatureFiles, ImageFeatures, write_features
from cgddi.fedd.probe import Pooled, fit, predict
from cgddi.fedd.settings import ProbeSettings
from sklearn.metrics import roc_auc_score
from torch import nn

from tests.fedd.study import make_study

PER_TONE = {"train": 10, "validation": 6, "test": 6}


def probe(spec, folder, output, features="features.safetensors"):
    argv = ["probe", "--spec", json.dumps(spec), "--features", str(folder / features), "--output-dir", str(output)]
    assert main([*argv, "--threads", "1"]) == 0
    record = json.loads((output / "record.json").read_text())
    with open(output / "predictions.csv", newline="") as handle:
        return record, list(csv.DictReader(handle))


def auc(lines, block, role="test"):
    mine = [line for line in lines if line["block"] == str(block) and line["role"] == role]
    return roc_auc_score([line["malignant"] == "true" for line in mine], [float(line["probability"]) for line in mine])


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A study whose block 2 tells malignant from benign and whose block 1 does not."""
    folder = tmp_path_factory.mktemp("probe")
    spec = {**make_study(folder, 0.4, PER_TONE), "settings": {}, "blocks": None, "seeds": [0, 1]}
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
    _, fewer = probe({**spec, "test": spec["test"][:1]}, folder, tmp_path / "fewer")
    assert [x for x in fewer if x["role"] == "validation"] == [x for x in lines if x["role"] == "validation"]


def test_blocks_and_seeds_do_not_depend_on_each_other(world, tmp_path) -> None:
    """One block and seed alone gives the same probabilities as among others."""
    folder, spec, _, lines = world
    _, alone = probe({**spec, "blocks": [2], "seeds": [1]}, folder, tmp_path / "alone")
    together = [line for line in lines if (line["block"], line["seed"]) == ("2", "1")]
    assert [x["image_id"] for x in alone] == [x["image_id"] for x in together]
    ours, theirs = (np.array([float(x["probability"]) for x in part]) for part in (alone, together))
    assert np.abs(ours - theirs).max() < 1e-3


def test_one_probe_is_the_published_network() -> None:
    """Without dropout, a probe's epochs are those of an ordinary 512-64-32-1 network with Adam and weight decay."""
    torch.manual_seed(0)
    data = Pooled(torch.randn(24, 1, 512), (torch.arange(24) % 2).float())
    settings = ProbeSettings(dropout=(0, 0), epochs=6, patience=6, standardise=False)
    one = fit(data, data, settings.model_copy(update={"epochs": 1, "learning_rate": 1e-12}), [0], [0], (1,)).networks
    net = nn.Sequential()
    for linear, norm in ((one.first, True), (one.second, True), (one.last, False)):
        layer = nn.Linear(*linear.weight.shape[:0:-1])
        layer.weight.data, layer.bias.data = linear.weight.data[0].clone(), linear.bias.data[0].clone()
        net.append(layer)
        if norm:
            net.extend([nn.ReLU(), nn.BatchNorm1d(layer.out_features)])
    optimizer = torch.optim.Adam(net.parameters(), 1e-3, weight_decay=1e-5)
    losses = []
    for _ in range(6):
        net.train()
        loss = nn.functional.binary_cross_entropy_with_logits(net(data.x[:, 0])[:, 0], data.y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        net.eval()
        losses.append(nn.functional.binary_cross_entropy_with_logits(net(data.x[:, 0])[:, 0], data.y).item())
    ours = fit(data, data, settings, [0], [0], (1,))
    assert ours.losses[0] == pytest.approx(min(losses), abs=1e-4)
    assert ours.epochs[0] == np.argmin(losses) + 1
    chances = predict(ours.networks, data.x, 1)
    assert chances.shape == (24, 1) and ((chances[:, 0] > 0.5) == data.y.bool().numpy()).mean() > 0.9


def test_standardising_is_part_of_the_weights(world, tmp_path) -> None:
    """Features of another scale and place, standardised, give the same probes; the weights read them as stored."""
    folder, spec, *_ = world
    files = FeatureFiles([folder / "features.safetensors"])
    rows = {role: [files.pooled(row["image_id"], 2).float() for row in spec[role]] for role in ("train", "validation")}
    labels = {role: torch.tensor([float(row["malignant"]) for row in spec[role]]) for role in rows}
    found = []
    for scale, shift in ((1, 0), (16, 32)):
        data = {role: Pooled(torch.stack(rows[role])[:, None] * scale + shift, labels[role]) for role in rows}
        fitted = fit(data["train"], data["validation"], ProbeSettings(epochs=30), [2], [0], (1,))
        found.append(predict(fitted.networks, data["validation"].x, 1))
    assert np.abs(found[0] - found[1]).max() < 1e-3


def broken(spec, name):
    """A spec with one thing wrong; returns the words of the error."""
    if name == "label":
        spec["test"][2]["malignant"] = None
        return "test-light-2: malignancy is unknown"
    if name == "stranger":
        spec["validation"].append({**spec["train"][0], "image_id": "stranger"})
        return "stranger: no pooled features of block 1, 2"
    if name == "block":
        spec["blocks"] = [2, 9]
        return "no pooled features of block 9"
    if name == "one class":
        spec["train"] = [row for row in spec["train"] if not row["malignant"]]
        return "all training photos of subset 20 are benign"
    if name == "timestep":
        spec["timestep"] = 50
        return "timestep 100, and the spec asks for 50"
    if name == "twice":
        spec["train"].append(spec["train"][0])
        return "train-light-0: is listed"
    spec["settings"] = {"hidden": [64]}
    return "hidden"


@pytest.mark.parametrize("name", ["label", "stranger", "block", "one class", "timestep", "twice", "setting"])
def test_bad_input(world, tmp_path, name) -> None:
    folder, spec, *_ = world
    spec = copy.deepcopy(spec)
    words = broken(spec, name)
    with pytest.raises((UserError, InvalidInput), match=words):
        probe(spec, folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_features_that_are_no_numbers(world, tmp_path) -> None:
    folder, spec, *_ = world
    files = FeatureFiles([folder / "features.safetensors"])
    features = {i: ImageFeatures(pooled={b: files.pooled(i, b) for b in (1, 2)}) for i in files.images}
    features["test-dark-1"].pooled[2][7] = torch.nan
    facts = {name: files.facts[name] for name in ("model", "size", "timestep", "crop", "blocks")}
    write_features(tmp_path / "f.safetensors", features, {"settings": {}}, **facts)
    with pytest.raises(InvalidInput, match="test-dark-1: pooled features of block 2 are not numbers"):
        probe(spec, tmp_path, tmp_path / "out", "f.safetensors")
