"""Only the new rows learn; the rest of the text encoder, UNet and autoencoder stay bit for bit."""

from __future__ import annotations

import json

import torch
from cgddi.diffusion.backbone import load
from cgddi.diffusion.tokens import TokenRows, start_rows, table_of
from cgddi.stages.embedding.settings import EmbeddingSettings

from tests.diffusion import tiny


def test_nothing_but_the_rows_changes(world, tmp_path):
    backbone = load({"source": str(world.model)}, torch.device("cpu"))
    modules = (backbone.denoiser, backbone.vae, *backbone.text_encoders)
    before = [{name: value.clone() for name, value in module.state_dict().items()} for module in modules]
    spec = tiny.spec_for("embedding", world.model, world.images, **tiny.TI)
    tiny.train_embedding(spec, [world.root / "masks.tar"], tmp_path, backbone=backbone)
    for module, old in zip(modules, before, strict=True):
        new = {name.replace("token_embedding.table.", "token_embedding."): v for name, v in module.state_dict().items()}
        assert all(torch.equal(new[name], old[name]) for name in old)
        assert [name for name in new if name not in old] in ([], ["embeddings.token_embedding.rows"])


def test_gradient_and_optimizer_state_are_the_rows_size(world):
    backbone = load({"source": str(world.model)}, torch.device("cpu"))
    start = start_rows(backbone.tokenizers[0], backbone.text_encoders[0], "lesion", 2)
    (holder,) = backbone.add_token("<t>", [start])
    assert isinstance(holder, TokenRows) and holder.rows.shape == (2, tiny.HIDDEN)
    assert table_of(backbone.text_encoders[0]) is holder and not holder.table.weight.requires_grad
    holder.rows.requires_grad_(True)
    backbone.encode_ids(backbone.tokenize(["a photo of <t>"])).embeds.sum().backward()
    assert holder.table.weight.grad is None and (holder.rows.grad.abs().sum(1) > 0).all()


def test_a_fresh_token_reads_as_its_initial_word(world):
    backbone = load({"source": str(world.model)}, torch.device("cpu"))
    backbone.add_token("<t>", [start_rows(backbone.tokenizers[0], backbone.text_encoders[0], "lesion", 1)])
    one, other = (backbone.encode_prompts([p]).embeds for p in ("a photo of <t> on skin", "a photo of lesion on skin"))
    assert torch.allclose(one, other, atol=1e-6)


def test_training_lowers_the_loss(world, tmp_path):
    settings = {
        **tiny.TI,
        "steps": 40,
        "batch": 4,
        "accumulation": 1,
        "validate_every": 8,
        "learning_rate": 0.05,
        "scale_lr": False,
    }
    spec = tiny.spec_for("embedding", world.model, world.images, **settings)
    tiny.train_embedding(spec, [world.root / "masks.tar"], tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [
        sum(line[f"loss_{tone}"] for tone in ("light", "medium", "dark")) for line in lines if "loss_dark" in line
    ]
    assert len(losses) == 5 and losses[-1] < losses[0]


def test_published_rates():
    assert EmbeddingSettings().lr == 5e-4 * 16
    assert EmbeddingSettings(scale_lr=False).lr == 5e-4
