"""The fast layers of a frozen model give the numbers and gradients of diffusers' own, with and without adapters."""

from __future__ import annotations

import pytest
import torch
from cgddi.diffusion.attention import FrozenAttention, FrozenGEGLU
from cgddi.diffusion.fast import make_fast
from cgddi.diffusion.lora_layers import find_targets, inject, only, remove
from cgddi.diffusion.resnet import FrozenResnet, FrozenUpBlock
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_blocks import UpBlock2D

TARGETS = ["to_q", "to_k", "to_v", "to_out.0"]
CLOSE = {"atol": 2e-6, "rtol": 1e-4}


@pytest.fixture(scope="module")
def models():
    """One UNet twice: as diffusers makes it, and with fast layers. 24 + 16 channels in 5 groups: a skip cuts through a group."""
    torch.manual_seed(0)
    pair = []
    for _ in range(2):
        pair.append(
            UNet2DConditionModel(
                sample_size=16,
                block_out_channels=(20, 40),
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                layers_per_block=1,
                cross_attention_dim=12,
                attention_head_dim=4,
                norm_num_groups=4,
            )
        )
    pair[1].load_state_dict(pair[0].state_dict())
    for model in pair:
        model.requires_grad_(False).eval()
    make_fast(pair[1])
    return pair


def inputs(batch: int = 4):
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 4, 16, 16, generator=draw)
    text = torch.randn(batch, 9, 12, generator=draw)
    return x, torch.arange(batch) * 100, text


def kinds(model):
    return {type(module) for module in model.modules()}


def test_every_kind_of_layer_is_in_place(models):
    assert {FrozenAttention, FrozenGEGLU, FrozenResnet, FrozenUpBlock} <= kinds(models[1])
    assert not {FrozenAttention, FrozenGEGLU, FrozenResnet, FrozenUpBlock} & kinds(models[0])
    assert list(models[0].state_dict()) == list(models[1].state_dict())


def test_same_output_and_gradient_of_the_text(models):
    found = []
    for model in models:
        x, steps, text = inputs()
        text.requires_grad_()
        out = model(x, steps, text, return_dict=False)[0]
        (out * x.roll(1, 0)).sum().backward()
        with torch.no_grad():
            assert torch.allclose(model(x, steps, text, return_dict=False)[0], out, **CLOSE)
        found.append((out.detach(), text.grad))
    for plain, fast in zip(*found, strict=True):
        assert torch.allclose(fast, plain, **CLOSE)


def test_same_gradient_of_the_latents(models):
    """Here the skip connections do learn."""
    found = []
    for model in models:
        x, steps, text = inputs()
        x.requires_grad_()
        (model(x, steps, text, return_dict=False)[0] * x.detach().roll(1, 0)).sum().backward()
        found.append(x.grad)
    assert torch.allclose(*found, **CLOSE)


def test_skips_without_gradient_get_none_computed(models):
    """The gradient of a convolution over a skip that nothing learns from has fewer channels."""
    x, steps, text = inputs()
    text.requires_grad_()
    loss = models[1](x, steps, text, return_dict=False)[0].sum()
    with torch.profiler.profile(record_shapes=True) as profile:
        loss.backward()
    channels = [e.input_shapes[1][1] for e in profile.events() if e.name == "aten::convolution_backward"]
    assert 45 in channels, "40 channels of 40 + 20, and what completes the last group of 15"
    assert channels.count(60) == 1, "only the block with attention computes the gradient of such a skip"


def test_a_skip_within_the_last_group_is_not_parted():
    """One group for all channels: no channel can do without the gradient of the others."""
    torch.manual_seed(0)
    blocks = [UpBlock2D(16, 16, 32, 24, num_layers=1, resnet_groups=1).requires_grad_(False) for _ in range(2)]
    blocks[1].load_state_dict(blocks[0].state_dict())
    make_fast(blocks[1])
    found = []
    for block in blocks:
        hidden = torch.linspace(-1, 1, 2 * 16 * 64).reshape(2, 16, 8, 8).requires_grad_()
        block(hidden, (hidden.detach().flip(1),), torch.ones(2, 24)).square().sum().backward()
        found.append(hidden.grad)
    assert type(blocks[1]) is FrozenUpBlock and torch.allclose(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("adapters", [1, 3])
@pytest.mark.parametrize(
    "rank, scale, targets",
    [
        (2, 1.0, TARGETS),
        (2, 0.5, TARGETS),
        (1, 2.0, TARGETS),
        (2, 1.0, [*TARGETS, "conv1", "conv_shortcut", "proj_in"]),
    ],
)
def test_adapters_give_the_plain_formulas_numbers(models, adapters, rank, scale, targets, monkeypatch):
    """Rank 1 has layers wider than 32 ranks, which go through rank r; the others are merged."""
    found = []
    for model in models:
        layers = inject(model, find_targets(model, targets), adapters, rank, scale)
        draw = torch.Generator().manual_seed(2)
        for layer in layers.values():
            layer.down.data = torch.randn(layer.down.shape, generator=draw) * 0.3
            layer.up.data = torch.randn(layer.up.shape, generator=draw) * 0.3
        with monkeypatch.context() as patch:
            if model is models[0]:
                patch.setattr("cgddi.diffusion.lora_layers.takes", lambda *_: False)
            x, steps, text = inputs(adapters * 2)
            out = model(x, steps, text, return_dict=False)[0]
            (out * x.roll(1, 0)).sum().backward()
            with only(layers, adapters - 1), torch.no_grad():
                alone = model(x, steps, text, return_dict=False)[0]
        found.append([out.detach(), alone, *(p.grad for layer in layers.values() for p in (layer.down, layer.up))])
        remove(model, layers)
    assert all(value.abs().max() > 0 for value in found[0])
    for plain, fast in zip(*found, strict=True):
        assert torch.allclose(fast, plain, atol=1e-5 * float(plain.abs().max()), rtol=1e-3)


def test_layers_that_learn_not_at_all_cost_no_gradient(models):
    """An adapter that is only applied: gradients go through it, none is made for it."""
    layers = inject(models[1], find_targets(models[1], TARGETS), 1, 2, 1.0)
    for layer in layers.values():
        layer.up.data.fill_(0.1), layer.down.data.fill_(0.1), layer.requires_grad_(False)
    x, steps, text = inputs()
    text.requires_grad_()
    models[1](x, steps, text, return_dict=False)[0].sum().backward()
    remove(models[1], layers)
    assert text.grad.abs().max() > 0 and all(layer.up.grad is None for layer in layers.values())


def test_some_adapted_projections_of_an_input(models):
    """Only queries and values learn: keys stay frozen beside them."""
    found = []
    for model in models:
        layers = inject(model, find_targets(model, ["to_q", "to_v"]), 1, 2, 1.0)
        for layer in layers.values():
            layer.up.data.fill_(0.05), layer.down.data.fill_(0.1)
        x, steps, text = inputs()
        out = model(x, steps, text, return_dict=False)[0]
        out.square().mean().backward()
        found.append([out.detach(), *(layer.up.grad for layer in layers.values())])
        remove(model, layers)
    for plain, fast in zip(*found, strict=True):
        assert torch.allclose(fast, plain, **CLOSE)


@pytest.mark.parametrize("in_place", [True, False])
def test_changed_weights_are_seen(models, in_place):
    """Whoever writes to a projection's weight, or puts another tensor in its place, changes what is computed."""
    found = []
    for model in models:
        layer = next(module for name, module in model.named_modules() if name.endswith("attn2.to_v"))
        kept = layer.weight.data.clone()
        if in_place:
            layer.weight.data.mul_(3)
        else:
            layer.weight.data = layer.weight.data * 3
        with torch.no_grad():
            found.append(model(*inputs(), return_dict=False)[0])
        layer.weight.data.copy_(kept)
        with torch.no_grad():
            assert not torch.allclose(model(*inputs(), return_dict=False)[0], found[-1], **CLOSE)
    assert torch.allclose(*found, **CLOSE)
