"""The first layer at low resolution equals upsample-then-MLP, whole, in strips and pixel by pixel."""

import pytest
import torch
from cgddi.fedd.segmenter import lowres
from torch.nn import functional

SHAPES = {
    "published blocks": ([(48, 8, 8), (32, 16, 16)], 64),
    "odd sizes": ([(5, 7, 5), (3, 11, 13), (4, 1, 1)], 37),
    "maps larger than the photo": ([(6, 40, 40), (6, 16, 16)], 16),
}


def published(weight, bias, maps, size):
    """Upsample every map, join the channels, apply the layer to each pixel."""
    wide = [functional.interpolate(m.float(), (size, size), mode="bilinear", align_corners=False) for m in maps]
    pixels = torch.cat(wide, 1).permute(0, 2, 3, 1)
    return functional.linear(pixels, weight, bias).permute(0, 3, 1, 2)


def linear(weight, bias, maps, size, rows=None):
    """The same without the wide maps: project, then upsample."""
    found = lowres.upsample(lowres.project(weight, maps), size, rows)
    return found if bias is None else found + bias[:, None, None]


@pytest.fixture(params=SHAPES, ids=list(SHAPES))
def case(request):
    shapes, size = SHAPES[request.param]
    draw = torch.Generator().manual_seed(3)
    maps = [torch.randn(3, *shape, generator=draw).half() for shape in shapes]
    channels = sum(shape[0] for shape in shapes)
    weight, bias = torch.randn(12, channels, generator=draw) / channels**0.5, torch.randn(12, generator=draw)
    return weight, bias, maps, size


def test_same_values_as_upsample_then_layer(case):
    weight, bias, maps, size = case
    expected = published(weight, bias, maps, size)
    assert torch.allclose(linear(weight, bias, maps, size), expected, atol=1e-5)
    part = linear(weight, bias, maps, size, rows=(5, 12))
    assert torch.allclose(part, expected[:, :, 5:12], atol=1e-5)
    joined = torch.cat([strip for _, strip in lowres.strips(weight, bias, maps, size, 9)], 2)
    assert torch.allclose(joined, expected, atol=1e-5)
    assert torch.allclose(linear(weight, None, maps, size), expected - bias[:, None, None], atol=1e-5)


def test_same_logits_of_a_whole_mlp(case):
    weight, bias, maps, size = case
    torch.manual_seed(0)
    rest = torch.nn.Sequential(
        torch.nn.ReLU(),
        torch.nn.BatchNorm1d(12),
        torch.nn.Linear(12, 8),
        torch.nn.ReLU(),
        torch.nn.BatchNorm1d(8),
        torch.nn.Linear(8, 5),
    ).eval()

    def logits(hidden):
        return rest(hidden.permute(0, 2, 3, 1).reshape(-1, 12))

    with torch.no_grad():
        theirs = logits(published(weight, bias, maps, size))
        ours = logits(linear(weight, bias, maps, size))
    assert (ours - theirs).abs().max() < 1e-4


def test_sampled_pixels_are_those_of_the_upsampled_maps(case):
    weight, bias, maps, size = case
    places = torch.cartesian_prod(torch.arange(3), torch.arange(size), torch.arange(size))
    image, row, column = places[torch.randperm(len(places), generator=torch.Generator().manual_seed(1))[:500]].T
    expected = published(weight, bias, maps, size)[image, :, row, column]
    images = [[block[n] for block in maps] for n in range(3)]
    features = lowres.sample(lowres.stack(images), image, row, column, size)
    assert features.shape == (500, weight.shape[1]) and features.dtype == torch.float32
    assert torch.allclose(functional.linear(features, weight, bias), expected, atol=1e-4)
    parts = [lowres.sample([block], image, row, column, size) for block in lowres.project(weight, maps)]
    assert torch.allclose(sum(parts) + bias, expected, atol=1e-4)


def test_gradients_reach_the_weight(case):
    weight, bias, maps, size = case
    ours, theirs = weight.clone().requires_grad_(), weight.clone().requires_grad_()
    linear(ours, bias, maps, size).square().mean().backward()
    published(theirs, bias, maps, size).square().mean().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-5)


def test_layer_of_other_width_is_refused(case):
    weight, bias, maps, size = case
    with pytest.raises(ValueError, match="channels"):
        linear(weight[:, :-1], bias, maps, size)
