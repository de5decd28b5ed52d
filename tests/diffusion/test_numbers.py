"""Numbers of the training rules against their formulas, computed here by themselves."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cgddi.diffusion.adapters import export
from cgddi.diffusion.batches import Batches, Pool, Table
from cgddi.diffusion.checkpoint import Checkpoint
from cgddi.diffusion.fit import Fit
from cgddi.diffusion.latents import Views
from cgddi.diffusion.lora_layers import find_targets, inject
from cgddi.diffusion.objective import Objective
from cgddi.diffusion.optimise import Plan
from cgddi.diffusion.schedule import NoiseRule
from cgddi.diffusion.training import plan_of
from cgddi.stages.embedding.settings import EmbeddingSettings
from cgddi.stages.lora.settings import LoraSettings
from torch import nn

BETAS = np.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=np.float64) ** 2
"""Stable Diffusion's "scaled linear" schedule."""


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_min_snr_weights_the_loss_as_its_formula(prediction):
    config = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": prediction}
    rule = NoiseRule(config)
    kept = np.cumprod(1 - BETAS)
    snr = kept / (1 - kept)
    wanted = np.minimum(snr, 5) / (snr if prediction == "epsilon" else snr + 1)
    steps = torch.tensor([0, 10, 200, 500, 999])
    assert snr[0] > 5 > snr[500], "both sides of gamma"
    np.testing.assert_allclose(rule.min_snr_weight(torch.arange(1000), 5.0).numpy(), wanted, rtol=1e-4)
    backbone = SimpleNamespace(rule=rule, denoise=lambda noisy, steps, prompts: torch.zeros_like(noisy))
    batch = {"latents": torch.randn(5, 4, 2, 2), "noise": torch.randn(5, 4, 2, 2), "steps": steps, "prompt": steps}
    plain, weighted = (Objective(backbone, lambda p: p, 1, 0.0, 0.0, gamma).each(batch) for gamma in (0.0, 5.0))
    np.testing.assert_allclose((weighted / plain).numpy(), wanted[steps], rtol=1e-4)


def test_noise_offset_shifts_each_channel_as_a_whole():
    count = 500
    table = Table(torch.zeros(1, 2, 4, 3, 3), torch.zeros(1, 2, 4, 3, 3), None, ["a"])
    pools = [[Pool(5, np.array([0]), np.array([1.0]), np.array([[0]]), count)]]
    plain, shifted = (Batches(table, pools, Views(), 0.5, 1000, offset).at(3)["noise"] for offset in (0.0, 0.1))
    shift = shifted - plain
    assert torch.allclose(shift, shift.mean(dim=(2, 3), keepdim=True).expand_as(shift), atol=1e-6)
    each = shift[:, :, 0, 0]
    assert float(each.std()) == pytest.approx(0.1, rel=0.08) and abs(float(each.mean())) < 0.01
    assert abs(torch.corrcoef(each.T) - torch.eye(4)).max() < 0.2, "channels shift independently"


class Batch:
    """One number a step."""

    counts = [1]

    def at(self, step):
        return {"x": torch.tensor([float(step % 3)])}


def quadratic(plan, validate_every=0):
    """A parameter of two numbers drawn to the batch's; gives its values at each step, what validation saw, and the result."""
    value, values, seen = nn.Parameter(torch.tensor([[2.0, -1.0]])), [], []

    def losses(batch):
        values.append(value.detach().clone())
        each = ((value - batch["x"]) ** 2).sum().reshape(1, 1)
        return each, each.sum()

    def validate():
        seen.append(value.detach().clone())
        return [{"v": 0.0}]

    plan = Plan(steps=7, lr=0.1, validate_every=validate_every, **plan)
    Fit({"v": value}, 1, losses, Batch(), plan, Checkpoint(None, "t", []), validate).run()
    return values, seen, value.detach().clone()


def test_the_average_is_its_recursion_and_what_validation_sees():
    raw, _, end = quadratic({})
    values, seen, result = quadratic({"ema": 0.8}, validate_every=3)
    assert all(torch.equal(a, b) for a, b in zip(values, raw, strict=True)), "averaging or looking changed the steps"
    average, expected = raw[0], []
    for value in [*raw[1:], end]:
        average = 0.8 * average + 0.2 * value
        expected.append(average)
    assert torch.allclose(result, expected[-1], atol=1e-6) and (result - end).abs().max() > 1e-2
    assert len(seen) == 3 and all(
        torch.allclose(a, expected[n], atol=1e-6) for a, n in zip(seen, (2, 5, 6), strict=True)
    )


@pytest.mark.parametrize("ema", [0.0, 0.8])
def test_decay_is_what_the_steps_leave_without_a_gradient(ema):
    plan = Plan(steps=9, lr=0.05, schedule="cosine", warmup=3, weight_decay=0.7, ema=ema)
    value = nn.Parameter(torch.full((1, 3), 2.0))

    def losses(batch):
        loss = 0 * value.sum()
        return loss.reshape(1, 1), loss

    Fit({"v": value}, 1, losses, Batch(), plan, Checkpoint(None, "t", [])).run()
    assert torch.allclose(value.detach(), torch.full((1, 3), 2.0 * plan.decay)) and plan.decay < 0.99


@pytest.mark.parametrize("settings", [EmbeddingSettings, LoraSettings])
def test_the_optimizer_is_the_settings(settings):
    chosen = settings(betas=(0.5, 0.6), eps=1e-3, clip=2.5, weight_decay=0.3, ema=0.1, grid_every=7, accumulation=1)
    plan = plan_of(chosen, 0.25, torch.float32)
    assert (plan.lr, plan.betas, plan.eps, plan.clip, plan.weight_decay) == (0.25, (0.5, 0.6), 1e-3, 2.5, 0.3)
    assert plan.preview_every == 7 and plan_of(settings(), 1.0, torch.float32).betas == (0.9, 0.999)
    fit = Fit({"v": nn.Parameter(torch.zeros(1, 2))}, 1, None, Batch(), plan, Checkpoint(None, "t", []))
    assert fit.optimizer.defaults["betas"] == (0.5, 0.6) and fit.optimizer.defaults["eps"] == 1e-3


def test_an_adapter_of_sd_2_1_has_the_published_size():
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(
            sample_size=64,
            cross_attention_dim=1024,
            block_out_channels=(320, 640, 1280, 1280),
            attention_head_dim=[5, 10, 20, 20],
            use_linear_projection=True,
        )
    default = LoraSettings()
    layers = inject(unet, find_targets(unet, default.target_modules), 1, default.rank, default.scale)
    tensors = export(layers)
    assert len(tensors) == 256 and sum(value.numel() for value in tensors.values()) == 1_659_904
