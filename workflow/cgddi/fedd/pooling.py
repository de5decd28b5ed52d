"""What is kept of a feature map besides the map: 512 numbers by max-pooling, and a picture of three clusters."""

from __future__ import annotations

import math
import warnings

import numpy as np
import torch
from torch.nn import functional

WIDTH = 512
CLUSTERS = 3


def pool(features: torch.Tensor) -> torch.Tensor:
    """Feature maps max-pooled in two dimensions, then in one, to 512 numbers (FEDD).

    The plane is max-pooled to g x g cells, g the least number with C g^2 >= 512: one cell for 512 channels and more, 2 x 2 for
    256 and for 128. The C g^2 values, channel by channel and each row by row, are then max-pooled to 512: 512 stay as they are,
    1024 in adjacent pairs, and of any other number L bin i takes the values floor(i L / 512) to ceil((i + 1) L / 512) - 1
    (adaptive pooling; fewer than 512 values are repeated).

    Args:
        features: (B, C, h, w).

    Returns:
        (B, 512), in the input's type.
    """
    batch, channels, height, width = features.shape
    cells = max(1, math.ceil(math.sqrt(WIDTH / channels)))
    plane = functional.adaptive_max_pool2d(features, (min(cells, height), min(cells, width)))
    return functional.adaptive_max_pool1d(plane.reshape(batch, 1, -1), WIDTH)[:, 0]


def cluster(features: torch.Tensor, seed: int) -> torch.Tensor:
    """K-means (K = 3) of a map's cells by their channels, which shows the blocks that tell lesion from skin (FEDD).

    Args:
        features: (C, h, w).
        seed: of the first centres.

    Returns:
        (h, w) uint8: 0 for the largest cluster, then by size (equal sizes: by the first cell).
    """
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    channels, height, width = features.shape
    cells = features.detach().float().cpu().reshape(channels, -1).T.contiguous().numpy()
    with threadpool_limits(1), warnings.catch_warnings():  # one thread: the same sums in the same order on any machine
        warnings.simplefilter("ignore")  # a flat map has fewer than three distinct cells
        found = KMeans(min(CLUSTERS, len(cells)), n_init=3, random_state=seed % 2**32).fit(cells).labels_
    names, first, counts = np.unique(found, return_index=True, return_counts=True)
    order = names[np.lexsort((first, -counts))]
    rank = np.empty(names.max() + 1, np.uint8)
    rank[order] = np.arange(len(order), dtype=np.uint8)
    return torch.from_numpy(rank[found].reshape(height, width))
