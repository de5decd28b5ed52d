"""Classifiers' weights in plain timm, and timm's in classifiers: timm itself says what they compute."""

from __future__ import annotations

import re

import pytest
import timm
import torch
from cgddi.core.backbones import create_backbone
from cgddi.core.errors import UserError
from cgddi.core.source import ROOT
from cgddi.stages.classify.methods import build
from cgddi.stages.classify.settings import ClassifySettings
from safetensors.torch import save_file

SIZE = 160
NAMES = {"baseline": "test_resnet", "fairdisco": "resnet18", "patchalign": "test_vit"}
IMAGES = torch.randn(2, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def classifier(method: str, folder, monkeypatch) -> torch.nn.Module:
    """A classifier of ours of chance weights, saved as the stage saves it."""
    monkeypatch.setattr(
        "cgddi.stages.classify.patchalign.label_embeddings", lambda *_: (torch.ones(2, 8), {"labels": ["a", "b"]})
    )
    torch.manual_seed(1)
    settings = ClassifySettings.model_validate(
        {"image_size": SIZE, "training": {"backbone": NAMES[method], "weights": "random", "frozen_tensors": 0}}
    )
    model, _ = build(method, settings, 2, ["a", "b"])
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "weights.safetensors")
    return model.eval()


@pytest.mark.parametrize("method", NAMES)
def test_the_lines_of_the_page_load_a_classifier_s_backbone_into_timm(method, tmp_path, monkeypatch):
    model = classifier(method, tmp_path, monkeypatch)
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/given.md").read_text(), re.S)
    assert len(code.strip().splitlines()) <= 6 and '"resnet18"' in code
    code = code.replace('"resnet18"', f'"{NAMES[method]}"').replace("results/ddi/classify/main/real/baseline/0/", "")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)  # noqa: S102
    with torch.no_grad():
        assert torch.equal(names["model"].eval()(IMAGES), model.backbone(IMAGES))
        plain = timm.create_model(NAMES[method], num_classes=0).eval()(IMAGES)
    assert not torch.allclose(plain, names["model"](IMAGES))


@pytest.mark.parametrize("method", NAMES)
def test_a_classifier_starts_from_another_s_backbone(method, tmp_path, monkeypatch):
    model = classifier(method, tmp_path, monkeypatch)
    found, facts = create_backbone(NAMES[method], str(tmp_path / "weights.safetensors"), SIZE)
    with torch.no_grad():
        assert torch.equal(found.eval()(IMAGES), model.backbone(IMAGES))
    assert len(facts["weights_sha256"]) == 64


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_folder_as_timm_s_models_lie_on_the_hub_is_read_and_a_hub_id_too(name, tmp_path, monkeypatch):
    torch.manual_seed(2)
    theirs = timm.create_model(name, num_classes=10).eval()
    timm.models.save_for_hf(theirs, tmp_path, safe_serialization=True)
    (tmp_path / "pytorch_model.bin").unlink(missing_ok=True)
    wanted = theirs.forward_head(theirs.forward_features(IMAGES), pre_logits=True)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *names, **_: tmp_path / names[-1])
    for weights in (str(tmp_path), f"timm/{name}.r160_in1k", f"timm/{name}.r160_in1k@{'0' * 40}"):
        found, _ = create_backbone(name, weights, SIZE)
        assert torch.allclose(found.eval()(IMAGES), wanted, atol=1e-6)
    with pytest.raises(UserError, match=r"are of another architecture than backbone resnet18"):
        create_backbone("resnet18", str(tmp_path), SIZE)
    with pytest.raises(UserError, match=r"nowhere/model.safetensors: no such|nowhere: no such"):
        create_backbone(name, str(tmp_path / "nowhere"), SIZE)
