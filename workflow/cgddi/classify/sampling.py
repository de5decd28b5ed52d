"""Balanced sampling: draws with replacement, in inverse proportion to the size of an image's group."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from torch.utils.data import Sampler

GROUPS = {
    "class": ["label"],
    "tone_class": ["tone", "label"],
    "tone_class_concept": ["tone", "label", "concept"],
    "none": [],
}


def sampling_weights(rows: pd.DataFrame, sampler: str, ratio: float | None = None) -> np.ndarray:
    """Probability of each row in one draw.

    Args:
        rows: training rows with columns kind, tone, label, concept.
        sampler: a key of `GROUPS`; every group is drawn equally often. "none" draws rows equally often.
        ratio: real : synthetic draws; None leaves it to the groups.

    Returns:
        float64 (N,), summing to one.
    """
    weights = np.ones(len(rows))
    keys = GROUPS[sampler]
    real = (rows["kind"] == "real").to_numpy()
    if keys:
        by = keys if ratio is None else [*keys, real]
        weights = 1.0 / rows.groupby(by, sort=False, observed=True)["label"].transform("size").to_numpy()
    if ratio is not None:
        weights[real] *= ratio / (1 + ratio) / weights[real].sum()
        weights[~real] *= 1 / (1 + ratio) / weights[~real].sum()
    return weights / weights.sum()


class BalancedSampler(Sampler):
    """Draws rows with replacement for one epoch at a time; yields (row, draw) with a draw number never used twice.

    Args:
        weights: probability of each row, (N,).
        count: draws per epoch.
        seed: of the draws.
    """

    def __init__(self, weights: np.ndarray, count: int, seed: int):
        self.cumulative = np.cumsum(weights) / np.sum(weights)
        self.count, self.seed, self.epoch = count, seed, 0

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        drawn = np.searchsorted(self.cumulative, rng.random(self.count), side="right").clip(
            max=len(self.cumulative) - 1
        )
        first = self.epoch * self.count
        self.epoch += 1
        return ((int(row), first + place) for place, row in enumerate(drawn))


class Shuffled(BalancedSampler):
    """Rows in random order, each once before any comes again, `count` per epoch: for methods that weigh the loss instead."""

    def __iter__(self) -> Iterator[tuple[int, int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        rounds = -(-self.count // len(self.cumulative))
        order = np.concatenate([rng.permutation(len(self.cumulative)) for _ in range(rounds)])[: self.count]
        first = self.epoch * self.count
        self.epoch += 1
        return ((int(row), first + place) for place, row in enumerate(order))
