"""Pooling to 512 numbers and K-means pictures, against their definitions written out."""

import math

import pytest
import torch
from cgddi.fedd.features.extract import cluster, pool


@pytest.mark.parametrize(
    ("channels", "side"), [(1024, 8), (512, 32), (256, 16), (128, 5), (96, 4), (64, 16), (640, 7), (64, 1)]
)
def test_pool_follows_its_definition(channels, side):
    features = torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(channels))
    cells = min(max(1, math.ceil(math.sqrt(512 / channels))), side)
    edges = [(math.floor(i * side / cells), math.ceil((i + 1) * side / cells)) for i in range(cells)]
    found = pool(features)
    assert found.shape == (2, 512)
    for image in range(2):
        values = [
            features[image, channel, top:bottom, left:right].max().item()
            for channel in range(channels)
            for top, bottom in edges
            for left, right in edges
        ]
        length = len(values)
        expected = [max(values[i * length // 512 : math.ceil((i + 1) * length / 512)]) for i in range(512)]
        assert found[image].tolist() == expected


def test_pool_keeps_512_channels_and_joins_pairs_of_1024():
    features = torch.randn(1, 512, 4, 4)
    assert torch.equal(pool(features)[0], features[0].amax((1, 2)))
    features = torch.randn(1, 1024, 4, 4)
    assert torch.equal(pool(features)[0], features[0].amax((1, 2)).view(512, 2).amax(1))


def test_clusters_find_regions_and_are_numbered_by_size():
    truth = torch.zeros(16, 16, dtype=torch.uint8)
    truth[4:9, 4:9], truth[14:, :] = 2, 1
    centres = torch.tensor([[0.0, 5.0, 0.0], [4.0, 0.0, 1.0], [-3.0, 0.0, 6.0]])
    noise = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(0)) * 0.2
    features = centres[truth.long()].permute(2, 0, 1) + noise
    labels = cluster(features, 5)
    assert torch.equal(labels, torch.tensor([0, 1, 2], dtype=torch.uint8)[truth.long()])
    assert torch.equal(labels, cluster(features, 5))


def test_clusters_of_flat_and_tiny_maps():
    assert cluster(torch.ones(8, 4, 4), 0).unique().tolist() == [0]
    assert cluster(torch.randn(8, 1, 2), 0).shape == (1, 2)
