"""Pretrained backbones by their true route: timm reads a hub cache offline, at full size."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import timm
import torch
from cgddi.audit.command import main as audit_main
from cgddi.classify.backbones import create_backbone
from cgddi.cli import main
from cgddi.errors import UserError
from cgddi.index.command import main as index_main
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from tests.classify.hub import COMMIT, cached
from tests.index.world import CONCEPTS, make_world

RESNET, VIT = "resnet18", "vit_base_patch16_224.augreg_in21k"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty hub cache; the network is refused, as on a compute node."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_every_tensor_comes_from_the_hub_cache(cache):
    blob = cached(cache, RESNET)
    model, facts = create_backbone(RESNET, "hub", 224)
    stored = load_file(blob)
    assert set(stored) - set(model.state_dict()) == {"fc.weight", "fc.bias"}
    assert all(torch.equal(value, stored[key]) for key, value in model.state_dict().items())
    assert facts["revision"] == COMMIT and facts["weights_sha256"] == blob.name
    assert facts["repository"] == "timm/resnet18.a1_in1k"
    assert model(torch.zeros(1, 3, 224, 224)).shape == (1, 512)
    pinned, facts = create_backbone(RESNET, f"hub@{COMMIT}", 224)
    assert facts["revision"] == COMMIT
    assert torch.equal(pinned.conv1.weight, stored["conv1.weight"])


def test_a_missing_tensor_another_architecture_and_no_cache_are_refused(cache):
    with pytest.raises(UserError, match=r"cannot be had from timm/resnet18.a1_in1k.*Download model.safetensors once"):
        create_backbone(RESNET, "hub", 224)
    state = timm.create_model(RESNET).state_dict()
    cached(cache, RESNET, {key: value for key, value in state.items() if key != "layer3.0.conv1.weight"})
    with pytest.raises(UserError, match=r"Missing key.*layer3.0.conv1.weight"):
        create_backbone(RESNET, "hub", 224)
    cached(cache, RESNET, timm.create_model("resnet10t").state_dict())
    with pytest.raises(UserError, match="resnet18 cannot be had"):
        create_backbone(RESNET, "hub", 224)
    with pytest.raises(UserError, match="cannot be had from timm/resnet18.a1_in1k@0123"):
        create_backbone(RESNET, "hub@0123", 224)


def test_weights_that_are_no_safetensors_are_not_read(cache):
    blob = cached(cache, RESNET, filename="pytorch_model.bin")
    torch.save(timm.create_model(RESNET).state_dict(), blob)
    with pytest.raises(UserError, match="Download model.safetensors once"):
        create_backbone(RESNET, "hub", 224)


def test_architectures_without_weights_on_the_hub(cache):
    bare = next(name for name in timm.list_models() if not timm.get_pretrained_cfg(name).hf_hub_id)
    with pytest.raises(UserError, match=f"no pretrained weights of {bare} on the hub"):
        create_backbone(bare, "hub", 224)


@pytest.fixture
def place(tmp_path):
    """A small index behind its gate; returns a function that runs `cgddi classify` on it for one step."""
    world = make_world(tmp_path, per_cell=3, semantic_per=1)
    index, leakage = tmp_path / "i.parquet", tmp_path / "leakage.json"
    index_main(["--spec", json.dumps({"stage": "index", "versions": {}, "split": "t"}), *world.index_args(index)])
    audit = json.dumps({"stage": "audit", "versions": {}, "settings": {"near_duplicates": "off"}})
    audit_main(["leakage", "--spec", audit, "--index", str(index), "--output", str(leakage), "--threads", "1"])

    def run(method: str, **settings) -> int:
        """One step of two images with the method's published settings."""
        once = {"epochs": 1, "batch_size": 2}
        settings = {"training": once, "images_per_epoch": 2, "workers": 0, "selection": "last", **settings}
        spec = {"stage": "classify", "versions": {}, "split": "t", "regime": "real", "method": method, "run_seed": 0}
        command = ["classify", "--spec", json.dumps({**spec, "settings": settings}), "--index", str(index)]
        command += ["--metrics", str(tmp_path / "o/metrics.jsonl"), "--threads", "1"]
        return main([*command, "--leakage", str(leakage), "--output-dir", str(tmp_path / "o")])

    return run


def test_the_published_baseline_trains_at_full_size_from_the_cache_and_says_so(cache, place, tmp_path, capsys):
    """ResNet-18 at 224 px by the command; without the cache it ends with a sentence."""
    assert place("baseline") == 2
    assert "pretrained weights of resnet18 cannot be had" in capsys.readouterr().err
    assert not (tmp_path / "o/predictions.csv").exists()
    blob = cached(cache, RESNET)
    assert place("baseline") == 0
    record = json.loads((tmp_path / "o/record.json").read_text())
    assert record["model"]["weights_sha256"] == blob.name and record["training"]["backbone"] == RESNET
    assert record["model"]["revision"] == COMMIT
    assert len(pd.read_csv(tmp_path / "o/predictions.csv")) == 12


@pytest.mark.slow
def test_patchalign_takes_a_step_at_its_published_size(cache, place, tmp_path):
    """ViT-B/16 (ImageNet-21k) at 224 px, 115 label texts: the first 50 tensors stay as they came, the others move."""
    blob = cached(cache, VIT)
    labels = [*CONCEPTS, *(f"disease-{n}" for n in range(111))]
    texts = tmp_path / "texts.safetensors"
    save_file({"embeddings": torch.randn(115, 768)}, texts, {"labels": json.dumps(labels)})
    assert place("patchalign", label_texts={"file": str(texts)}) == 0
    record = json.loads((tmp_path / "o/record.json").read_text())
    assert record["training"]["backbone"] == VIT and record["model"]["weights_sha256"] == blob.name
    assert set(record["history"][0]["terms"]) == {"class", "confusion", "tone", "alignment"}
    before, after = load_file(blob), load_file(tmp_path / "o/weights.safetensors")
    assert after["mask.0.weight"].shape == (128, 197 * 768) and after["mask.2.weight"].shape == (197 * 115, 128)
    names = [name for name, _ in create_backbone(VIT, "random", 224)[0].named_parameters()]
    same = [torch.equal(before[name], after[f"backbone.{name}"]) for name in names]
    assert len(names) == 150 and all(same[:50]) and not any(same[50:])
    (tmp_path / "o/weights.safetensors").unlink()
    blob.unlink()
