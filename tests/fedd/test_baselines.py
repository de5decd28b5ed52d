"""U-Nets, classifiers and DeepDerm: they learn, repeat themselves, and refuse what is not theirs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from cgddi.cli import main
from cgddi.core.errors import InvalidInput, UserError
from cgddi.fedd.baselines.networks import build, build_deepderm, build_unet
from cgddi.fedd.baselines.train import augmented
from cgddi.fedd.settings import NETWORKS, BaselinesSettings
from cgddi.fedd.study import read_photos
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torchvision.models import Inception3

from tests.fedd.photos import write_study
from tests.fedd.specs import spec_file

SETTINGS = {"weights": "random", "epochs": 6, "patience": 6, "batch_size": 6, "learning_rate": 3e-3}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("study"))


def spec_of(study, task, network, settings=None, **keys):
    settings = {**SETTINGS, **(settings or {})}
    base = {"task": task, "network": network, "subset": "5", "run_seed": 0, "size": 64, "crop": "resize", "seed": 1}
    return {**base, "id_map": None, "settings": settings, **study, **keys}


def run(spec, out):
    return main(["fedd", "baseline", "--spec", spec_file(spec, out), "--output-dir", str(out), "--threads", "1"])


def test_a_unet_learns_the_lesion_and_repeats_itself_byte_for_byte(study, tmp_path):
    spec = spec_of(study, "segmentation", "mobilenet_v2", {"epochs": 20, "patience": 20})
    assert run(spec, tmp_path / "a") == 0
    names = {"test.csv", "validation.csv", "pictures.safetensors", "weights.safetensors", "record.json"}
    assert {path.name for path in (tmp_path / "a").iterdir()} == names
    once = spec_of(study, "segmentation", "mobilenet_v2", {"epochs": 1})
    assert run(once, tmp_path / "b") == 0 and run(once, tmp_path / "c") == 0
    for name in names:
        assert (tmp_path / "b" / name).read_bytes() == (tmp_path / "c" / name).read_bytes(), name
    table = pd.read_csv(tmp_path / "a/test.csv")
    assert list(table.columns) == [
        "image_id",
        "tone",
        "malignant",
        "class",
        "intersection",
        "union",
        "predicted",
        "truth",
    ]
    assert len(table) == 6 * 5 and (table.groupby("image_id")["truth"].sum() == 64 * 64).all()
    assert (table["union"] == table["predicted"] + table["truth"] - table["intersection"]).all()
    lesion = table[table["class"] == "lesion"]
    assert lesion["intersection"].sum() / lesion["union"].sum() > 0.5  # 0.49 after half as many epochs
    record = json.loads((tmp_path / "a/record.json").read_text())
    assert record["training_images"] == sorted(row["image_id"] for row in study["train"])
    assert record["counts"]["test"]["dark"] == {"images": 2, "malignant": 1}
    best = max(record["history"], key=lambda epoch: (epoch["score"], -epoch["loss"]))
    assert record["chosen_epoch"] == best["epoch"]
    shown = load_file(tmp_path / "a/pictures.safetensors")
    name = study["test"][0]["image_id"]
    row = table[(table["image_id"] == name) & (table["class"] == "lesion")].iloc[0]
    assert int((shown[f"{name}/predicted"] == 1).sum()) == row["predicted"]
    assert int((shown[f"{name}/truth"] == 1).sum()) == row["truth"]


def test_a_classifier_learns_malignancy(study, tmp_path):
    """The better of two: from random weights and so few photos one of three learns nothing, and which differs by processor."""
    metrics, gaps = tmp_path / "m.jsonl", []
    for seed in (0, 1):
        out = tmp_path / str(seed)
        spec = spec_of(study, "classification", "mobilenetv2_100", {"epochs": 30, "patience": 30}, run_seed=seed)
        words = ["fedd", "baseline", "--spec", spec_file(spec, out), "--output-dir", str(out), "--threads", "1"]
        assert main([*words, "--metrics", str(metrics)]) == 0
        table = pd.read_csv(out / "predictions.csv")
        assert list(table.columns) == ["image_id", "tone", "malignant", "role", "block", "seed", "probability"]
        assert table["block"].isna().all() and set(table["role"]) == {"validation", "test"}
        means = table[table["role"] == "test"].groupby("malignant")["probability"].mean()
        gaps.append(means[True] - means[False])
        if gaps[-1] > 0.2:
            break
    assert max(gaps) > 0.2
    used = json.loads(metrics.read_text().splitlines()[-1])
    assert used["steps"] > 0 and used["images"] == 6 * used["steps"] and used["network"] == "mobilenetv2_100"


@pytest.mark.parametrize("task", ["segmentation", "classification"])
def test_every_network_gives_the_right_shape(task):
    settings = BaselinesSettings(weights="random")
    for network in NETWORKS[task]:
        made = build(task, network, settings, 64)
        with torch.inference_mode():
            logits = made.model.eval()(torch.zeros(2, 3, made.size, made.size))
        assert logits.shape == ((2, 5, 64, 64) if task == "segmentation" else (2, 2)), network
        assert made.facts["weights"] == "random" and made.threshold == 0.5


@pytest.fixture(scope="module")
def deepderm(tmp_path_factory):
    """A checkpoint as DDI publishes it: a state dict of torchvision's Inception-v3 with two outputs, here random."""
    torch.manual_seed(3)
    path = tmp_path_factory.mktemp("deepderm") / "deepderm.pth"
    model = Inception3(num_classes=2, aux_logits=True, init_weights=False)
    torch.save(model.state_dict(), path)
    return path, model


def test_deepderm_as_published_is_tested_without_training_at_its_own_threshold(study, deepderm, tmp_path):
    path, model = deepderm
    options = {"weight_files": {"classification/deepderm": str(path)}, "deepderm_finetune": False}
    few = {role: rows[::3] for role, rows in study.items()}
    assert run(spec_of(few, "classification", "deepderm", options), tmp_path) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["threshold"] == 0.687 and record["training_images"] == [] and record["history"] == []
    photos = read_photos(few["test"], 299, "resize", masks=False)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = (torch.from_numpy(photos.pixels) / 255 - mean[:, None, None]) / std[:, None, None]
    with torch.inference_mode():
        expected = model.eval()(pixels).softmax(1)[:, 1]
    table = pd.read_csv(tmp_path / "predictions.csv").query("role == 'test'").set_index("image_id")["probability"]
    names = [row["image_id"] for row in few["test"]]
    np.testing.assert_allclose(table[names], expected, atol=2e-6)


def test_deepderm_fine_tunes_with_its_auxiliary_head(study, deepderm, tmp_path):
    path, model = deepderm
    options = {"weight_files": {"classification/deepderm": str(path)}, "epochs": 1}
    few = {role: rows[::3] for role, rows in study.items()}
    assert run(spec_of(few, "classification", "deepderm", options), tmp_path) == 0
    record = json.loads((tmp_path / "record.json").read_text())
    assert record["threshold"] == 0.5 and len(record["history"]) == 1
    after = load_file(tmp_path / "weights.safetensors")
    before = model.state_dict()
    for name in ("fc.weight", "AuxLogits.fc.weight", "Conv2d_1a_3x3.conv.weight"):
        assert not torch.equal(after[name], before[name]), name


def test_deepderm_refuses_other_files(deepderm, tmp_path):
    state = deepderm[1].state_dict()
    torch.save({**state, "fc.weight": torch.zeros(1000, 2048)}, tmp_path / "imagenet.pth")
    with pytest.raises(UserError, match=r"another architecture.*size mismatch for fc\.weight"):
        build_deepderm(str(tmp_path / "imagenet.pth"))
    torch.save({"model": deepderm[1]}, tmp_path / "code.pth")
    with pytest.raises(UserError, match="not a plain set of tensors"):
        build_deepderm(str(tmp_path / "code.pth"))
    torch.save({"epoch": 3, "state": 1}, tmp_path / "other.pth")
    with pytest.raises(UserError, match="not a flat set"):
        build_deepderm(str(tmp_path / "other.pth"))
    (tmp_path / "cut.pth").write_bytes((tmp_path / "imagenet.pth").read_bytes()[:5000])
    with pytest.raises(UserError, match="damaged"):
        build_deepderm(str(tmp_path / "cut.pth"))
    with pytest.raises(UserError, match="no such file"):
        build_deepderm(str(tmp_path / "absent.pth"))
    with pytest.raises(UserError, match="on no hub"):
        build_deepderm("hub")
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "deepderm.safetensors")
    model, facts = build_deepderm(str(tmp_path / "deepderm.safetensors"))
    assert torch.equal(model.state_dict()["fc.bias"], state["fc.bias"]) and len(facts["weights_sha256"]) == 64


def test_encoder_weights_come_from_a_local_file_and_only_for_the_same_encoder(tmp_path):
    torch.manual_seed(5)
    donor, _ = build_unet("mobilenet_v2", "random")
    state = donor.encoder.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "mobilenet.safetensors")
    model, facts = build_unet("mobilenet_v2", str(tmp_path / "mobilenet.safetensors"))
    for name, value in model.encoder.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert facts["encoder"] == "mobilenet_v2" and len(facts["weights_sha256"]) == 64
    with pytest.raises(UserError, match="another architecture than U-Net encoder resnet50"):
        build_unet("resnet50", str(tmp_path / "mobilenet.safetensors"))


def test_without_the_hub_the_error_names_the_remedy(monkeypatch, tmp_path):
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match=r'weight_files: \{"segmentation/resnet50": FILE\}'):
        build_unet("resnet50", "hub")


def test_encoder_weights_come_from_the_hub_cache_without_a_network(monkeypatch, tmp_path):
    import huggingface_hub.constants as constants
    from segmentation_models_pytorch.encoders import encoders

    source = encoders["mobilenet_v2"]["pretrained_settings"]["imagenet"]
    folder = tmp_path / f"models--{source['repo_id'].replace('/', '--')}" / "snapshots" / source["revision"]
    folder.mkdir(parents=True)
    torch.manual_seed(6)
    state = build_unet("mobilenet_v2", "random")[0].encoder.state_dict()
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model, facts = build_unet("mobilenet_v2", "hub")
    assert facts["weights"] == "hub"
    assert all(torch.equal(value, state[name]) for name, value in model.encoder.state_dict().items())


def test_what_cannot_be_learnt_from_is_refused_or_left_out(study, tmp_path, capsys):
    benign = {**study, "train": [row for row in study["train"] if not row["malignant"]]}
    assert run(spec_of(benign, "classification", "mobilenetv2_100"), tmp_path / "a") == 2
    assert "all training photos of subset 5 are benign" in capsys.readouterr().err
    twice = {**study, "test": [*study["test"], study["train"][0]]}
    assert run(spec_of(twice, "segmentation", "mobilenet_v2"), tmp_path / "b") == 2
    assert "listed for test and also for train" in capsys.readouterr().err
    np.save(tmp_path / "all.npy", np.ones((72, 72), np.int32))
    covered = {**study, "train": [{**study["train"][0], "mask": str(tmp_path / "all.npy")}, *study["train"][1:]]}
    assert run(spec_of(covered, "segmentation", "mobilenet_v2", {"epochs": 1}), tmp_path / "c") == 0
    record = json.loads((tmp_path / "c/record.json").read_text())
    assert [line["image_id"] for line in record["left_out"]] == [study["train"][0]["image_id"]]
    assert sum(tone["images"] for tone in record["counts"]["train"].values()) == 5


def test_unknown_networks_are_refused_with_the_list():
    with pytest.raises(ValidationError, match="should be 'densenet121', 'vgg16', 'resnet50'"):
        BaselinesSettings(segmentation=("resnet51",))
    with pytest.raises(ValidationError, match="no key of weight_files 'resnet50'; there are segmentation/densenet121"):
        BaselinesSettings(weight_files={"resnet50": "x"})
    with pytest.raises(ValidationError, match="deepderm is on no hub"):
        BaselinesSettings(classification=("deepderm",))
    with pytest.raises(UserError, match="no segmentation baseline 'deepderm'.*segmentation: densenet121"):
        build("segmentation", "deepderm", BaselinesSettings(), 64)
    with pytest.raises(UserError, match="multiple of 32, not 72"):
        build("segmentation", "resnet50", BaselinesSettings(weights="random"), 72)


def test_photo_and_mask_get_the_same_view():
    """Patches of five greys, brightness aside: each grey of a view lies where its class does, turned, mirrored or moved."""
    rng = np.random.default_rng(0)
    masks = torch.from_numpy(rng.integers(0, 5, (12, 8, 8)).repeat(8, 1).repeat(8, 2))
    pixels = (masks[:, None] * 50).to(torch.uint8).expand(-1, 3, -1, -1)
    torch.manual_seed(1)
    views, turned = augmented(pixels, masks)
    assert views.shape == pixels.shape and views.dtype == torch.uint8 and turned.dtype == masks.dtype
    for view, mask, before in zip(views, turned, masks, strict=True):
        assert not torch.equal(mask, before) and set(mask.unique().tolist()) <= set(range(5))
        means = torch.stack([view[0][mask == k].float().median() for k in range(5)])
        assert (means.diff() > 20).all()  # the greys keep their order under brightness and contrast
        nearest = (view[0][..., None].float() - means).abs().argmin(-1)
        assert (nearest == mask).float().mean() > 0.85  # edges are blended in the photo alone
    labels = torch.tensor([1, 0])
    assert torch.equal(augmented(pixels[:2], labels)[1], labels)


def test_every_unreadable_photo_and_mask_is_named(study, tmp_path):
    rows = [dict(row) for row in study["test"]]
    rows[0]["mask"] = None
    rows[1]["file"] = str(tmp_path / "absent.png")
    np.save(tmp_path / "tall.npy", np.ones((64, 16), np.int32))
    rows[2]["mask"] = str(tmp_path / "tall.npy")
    np.save(tmp_path / "float.npy", np.full((8, 8), 0.5))
    rows[3]["mask"] = str(tmp_path / "float.npy")
    with pytest.raises(InvalidInput) as caught:
        read_photos(rows, 64, "resize")
    text = str(caught.value)
    assert len(caught.value.problems) == 4
    for row, message in zip(rows, ("no human mask", "no such file", "photo's shape", "float64"), strict=False):
        line = next(line for line in text.splitlines() if f"image {row['image_id']}:" in line)
        assert message in line
