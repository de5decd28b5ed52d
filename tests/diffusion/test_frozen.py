"""Fast products of frozen layers give torch's numbers, and the gradient of their input."""

from __future__ import annotations

import pytest
import torch
from cgddi.diffusion.fast import make_fast
from cgddi.diffusion.fit import Fit
from cgddi.diffusion.frozen import FrozenLinear, FrozenPointwise
from cgddi.diffusion.optimise import Plan, loss_scale
from torch import nn


@pytest.mark.parametrize(
    "layer, shape",
    [
        (nn.Linear(24, 40), (4, 33, 24)),
        (nn.Linear(24, 40, bias=False), (3, 24)),
        (nn.Conv2d(24, 40, 1), (4, 24, 7, 5)),
        (nn.Conv2d(24, 40, 1, bias=False), (4, 24, 7, 5)),
    ],
)
def test_same_values_and_gradients(layer, shape):
    layer.requires_grad_(False)
    torch.manual_seed(0)
    x = torch.randn(shape, requires_grad=True)
    if layer.__class__ is nn.Conv2d:
        x = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    expected = layer(x)
    weights = torch.randn_like(expected)
    gradient = torch.autograd.grad((expected * weights).sum(), x)[0]
    make_fast(layer)
    assert type(layer) in (FrozenLinear, FrozenPointwise)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert torch.allclose(torch.autograd.grad((layer(x) * weights).sum(), x)[0], gradient, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(layer(x.detach()), expected, atol=1e-5)


def test_other_layers_and_trained_weights_stay_torchs_own():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, stride=2), nn.Linear(8, 8))
    make_fast(model)
    assert type(model[0]) is nn.Conv2d and type(model[1]) is nn.Conv2d
    model[2](torch.randn(100, 8)).sum().backward()
    assert model[2].weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_types_pass_through(dtype):
    layer = nn.Linear(8, 8).to(dtype).requires_grad_(False)
    x = torch.randn(100, 8, dtype=dtype)
    expected = layer(x)
    make_fast(layer)
    assert torch.equal(layer(x), expected)


def test_a_scaled_loss_changes_no_step_in_float32():
    """The scale is a power of two: in and out of the gradient without rounding."""
    results = []
    for scale in (1.0, loss_scale(torch.float16)):
        weight = nn.Parameter(torch.linspace(-1, 1, 8).reshape(1, 8))

        def losses(batch, weight=weight):
            each = (weight * batch["x"]).square()
            return each, each.mean()

        fit = Fit({"w": weight}, 1, losses, None, Plan(3, 0.1, clip=0.5, loss_scale=scale), None)
        _, norms = fit.update({"x": torch.ones(1, 8)})
        results.append((weight.detach().clone(), norms))
    assert loss_scale(torch.float16) > 1 == loss_scale(torch.bfloat16)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])
