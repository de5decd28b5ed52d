"""oneDNN's products of frozen layers give torch's numbers, and the gradient of their input."""

from __future__ import annotations

import pytest
import torch
from cgddi.diffusion.onednn import FrozenLinear, FrozenPointwise, use_onednn_layers
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
    use_onednn_layers(layer)
    assert type(layer) in (FrozenLinear, FrozenPointwise)
    assert torch.allclose(layer(x), expected, atol=1e-5)
    assert torch.allclose(torch.autograd.grad((layer(x) * weights).sum(), x)[0], gradient, atol=1e-5)
    with torch.no_grad():
        assert torch.allclose(layer(x.detach()), expected, atol=1e-5)


def test_other_layers_and_trained_weights_stay_torchs_own():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 1, stride=2), nn.Linear(8, 8))
    use_onednn_layers(model)
    assert type(model[0]) is nn.Conv2d and type(model[1]) is nn.Conv2d
    model[2](torch.randn(100, 8)).sum().backward()
    assert model[2].weight.grad is not None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_number_types_pass_through(dtype):
    layer = nn.Linear(8, 8).to(dtype).requires_grad_(False)
    x = torch.randn(100, 8, dtype=dtype)
    expected = layer(x)
    use_onednn_layers(layer)
    assert torch.equal(layer(x), expected)
