"""Several adapters over one base: each is what it would be alone."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from cgddi.core.errors import UserError
from cgddi.core.images import decode_png
from cgddi.diffusion.adapters import read_adapter
from cgddi.diffusion.lora_layers import StackedLoRA, inject, remove
from cgddi.diffusion.optimise import Flat
from cgddi.stages.lora.train import train_lora
from peft import LoraConfig
from torch import nn

from tests.diffusion import tiny

TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"]


def concepts(world, tmp_path, **settings):
    made = []
    for number, slug in enumerate(("one", "two", "three")):
        images = world.images[number : number + 3]
        spec = tiny.spec_for("embedding", world.model, images, slug, **tiny.TI)
        tiny.train_embedding(spec, [world.root / "masks.tar"], tmp_path / slug)
        job = world.job(
            slug, embedding=tmp_path / slug / "learned_embeds.safetensors", target_modules=TARGETS, **settings
        )
        made.append(dataclasses.replace(job, spec={**job.spec, "images": images}))
    return made


def test_a_pack_equals_single_runs(world, tmp_path):
    jobs = concepts(world, tmp_path)
    alone = [dataclasses.replace(job, output=tmp_path / "alone" / job.slug) for job in jobs]
    together = [dataclasses.replace(job, output=tmp_path / "together" / job.slug) for job in jobs]
    for job in alone:
        train_lora([job])
    train_lora(together)
    for a, b in zip(alone, together, strict=True):
        one, other = (read_adapter(j.output / "pytorch_lora_weights.safetensors") for j in (a, b))
        assert one.up.keys() == other.up.keys()
        for name in one.up:
            assert torch.allclose(one.up[name], other.up[name], atol=2e-4, rtol=1e-2), name
            assert torch.allclose(one.down[name], other.down[name], atol=2e-4, rtol=1e-2), name
    differs = [read_adapter(j.output / "pytorch_lora_weights.safetensors").up for j in together[:2]]
    assert max(float((differs[0][n] - differs[1][n]).abs().max()) for n in differs[0]) > 1e-2


def test_curves_and_previews_of_each_concept_in_a_pack(world, tmp_path):
    options = {"validate_every": 3, "grid_every": 3}
    jobs = [world.job(output=str(tmp_path / "out" / name), concept=name, **options) for name in ("one", "two")]
    alone = dataclasses.replace(jobs[1], output=tmp_path / "alone")
    train_lora(jobs, curves=tmp_path / "logs/pack")
    train_lora([alone], curves=tmp_path / "logs/alone")
    lines = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (jobs[1].output, alone.output, jobs[0].output)
    ]
    for a, b in zip(*lines[:2], strict=True):
        assert a == pytest.approx(b, rel=1e-2)
    assert lines[0] != lines[2] and {"loss_light", "loss_dark"} <= set(lines[0][-1])
    pictures = {p.name: decode_png(p.read_bytes()).astype(int) for p in (tmp_path / "logs").glob("*.png")}
    assert set(pictures) == {f"{a}.{b}-{n}.png" for a, b in (("pack", "one"), ("pack", "two"), ("alone", "two"))
                             for n in ("000003", "000006")}  # fmt: skip
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(tmp_path / "logs/pack.tensorboard")).Reload()
    for name, own in (("one", lines[2]), ("two", lines[0])):
        shown = [(e.step, e.value) for e in board.Scalars(f"loss_dark/{name}")]
        assert shown == [(x["step"], pytest.approx(x["loss_dark"], rel=1e-5)) for x in own if "loss_dark" in x]
    mean = [(e.step, e.value) for e in board.Scalars("loss_dark")]
    assert len(mean) == 2 and {"lr", "loss", "loss/one", "grad_norm/two"} <= set(board.Tags()["scalars"])
    assert abs(pictures["pack.two-000003.png"] - pictures["alone.two-000003.png"]).max() <= 2
    assert abs(pictures["pack.two-000006.png"] - pictures["pack.one-000006.png"]).max() > 2


def test_a_pack_needs_equal_settings(world, tmp_path):
    jobs = concepts(world, tmp_path)
    other = dataclasses.replace(jobs[1], spec={**jobs[1].spec, "settings": {**jobs[1].spec["settings"], "rank": 2}})
    with pytest.raises(UserError, match="equal settings"):
        train_lora([jobs[0], other])


@pytest.mark.parametrize("layer", [nn.Linear(6, 5), nn.Conv2d(6, 5, 3, padding=1, stride=2)])
def test_stacked_layer_equals_its_parts(layer):
    torch.manual_seed(0)
    x = torch.randn((6, 7, 6) if isinstance(layer, nn.Linear) else (6, 6, 8, 8))
    stacked = StackedLoRA(layer, 3, 2, 0.5)
    nn.init.normal_(stacked.down), nn.init.normal_(stacked.up)
    parts = []
    for k in range(3):
        single = StackedLoRA(layer, 1, 2, 0.5)
        single.down.data[0], single.up.data[0] = stacked.down.data[k], stacked.up.data[k]
        parts.append(single(x[2 * k : 2 * k + 2]))
    assert torch.allclose(stacked(x), torch.cat(parts), atol=1e-5)


def test_our_layer_equals_pefts(world):
    """Same numbers in peft's own LoRA layers give the same prediction."""
    from cgddi.diffusion.lora_layers import find_targets
    from diffusers import UNet2DConditionModel

    mine = UNet2DConditionModel.from_pretrained(world.model, subfolder="unet")
    theirs = UNet2DConditionModel.from_pretrained(world.model, subfolder="unet")
    layers = inject(mine, find_targets(mine, TARGETS), 1, 4, 2.0)
    theirs.add_adapter(LoraConfig(r=4, lora_alpha=8, target_modules=TARGETS))
    modules = dict(theirs.named_modules())
    torch.manual_seed(1)
    for name, layer in layers.items():
        nn.init.normal_(layer.down, std=0.1), nn.init.normal_(layer.up, std=0.1)
        modules[name].lora_A["default"].weight.data.copy_(layer.down[0])
        modules[name].lora_B["default"].weight.data.copy_(layer.up[0])
    x, text = torch.randn(2, 4, 16, 16), torch.randn(2, 5, tiny.HIDDEN)
    with torch.no_grad():
        assert torch.allclose(mine(x, 10, text)[0], theirs(x, 10, text)[0], atol=1e-5)
        plain = UNet2DConditionModel.from_pretrained(world.model, subfolder="unet")
        assert (mine(x, 10, text)[0] - plain(x, 10, text)[0]).abs().max() > 1e-3
        remove(mine, layers)
        assert torch.equal(mine(x, 10, text)[0], plain(x, 10, text)[0])


def test_flat_parameters_share_memory_and_gradients():
    first, second = nn.Parameter(torch.randn(2, 3, 4)), nn.Parameter(torch.randn(2, 5))
    before = first.detach().clone()
    flat = Flat({"a": first, "b": second}, 2)
    assert torch.equal(first.detach(), before) and flat.value.shape == (2, 17)
    (first.sum() + 2 * second.sum()).backward()
    assert torch.equal(flat.value.grad, torch.cat([torch.ones(2, 12), 2 * torch.ones(2, 5)], 1))
    with torch.no_grad():
        flat.value.add_(1)
    assert torch.allclose(first.detach(), before + 1)
