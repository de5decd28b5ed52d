"""Balanced sampling: draws with replacement, in inverse proportion to the size of an image's group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from torch.utils.data import Sampler

from cgddi.core.errors import UserError

GROUPS = {
    "class": ["label"],
    "tone_class": ["tone", "label"],
    "tone_class_concept": ["tone", "label", "concept"],
    "none": [],
}


def sampling_weights(
    rows: pd.DataFrame, sampler: str, ratio: float | None = None, kind_shares: Mapping[str, float] | None = None
) -> np.ndarray:
    """Probability of each row in one draw.

    Args:
        rows: training rows with columns kind, tone, label, concept.
        sampler: a key of `GROUPS`; every group is drawn equally often. "tone_class_concept": every (tone, class) equally often,
            and within it every concept. "none" draws rows equally often.
        ratio: real : synthetic draws; None leaves it to the groups.
        kind_shares: kind -> share of the draws that the kinds named have together within a group; the others keep theirs.

    Returns:
        float64 (N,), summing to one.

    Raises:
        UserError: no image is left to draw, since every kind there has share zero.
    """
    weights = np.ones(len(rows))
    keys = GROUPS[sampler]
    real = (rows["kind"] == "real").to_numpy()
    if keys:
        by = keys if ratio is None else [*keys, real]
        weights = 1.0 / rows.groupby(by, sort=False, observed=True)["label"].transform("size").to_numpy()
        if "concept" in keys:  # (tone, class) equally often whatever its number of concepts
            outer = [key for key in by if not (isinstance(key, str) and key == "concept")]
            weights /= (
                rows.assign(_w=weights).groupby(outer, sort=False, observed=True)["_w"].transform("sum").to_numpy()
            )
    if kind_shares:
        weights = _by_kind(rows, weights, keys if ratio is None else [*keys, real], kind_shares)
    if ratio is not None:
        weights[real] *= ratio / (1 + ratio) / weights[real].sum()
        weights[~real] *= 1 / (1 + ratio) / weights[~real].sum()
    return weights / weights.sum()


def _by_kind(rows: pd.DataFrame, weights: np.ndarray, keys: list, shares: Mapping[str, float]) -> np.ndarray:
    """Weights whose sum over the named kinds of each group is divided over these kinds by their shares."""
    named = rows["kind"].isin(shares).to_numpy()
    group = rows.groupby(keys, sort=False, observed=True).ngroup().to_numpy() if keys else np.zeros(len(rows), int)
    share = rows["kind"].map(shares).fillna(0.0).to_numpy(dtype=float)
    cell = pd.Series(weights[named]).groupby([group[named], rows["kind"].to_numpy()[named]])
    wanted = share[named] * weights[named] / cell.transform("sum").to_numpy()
    mass = np.bincount(group[named], weights[named])[group[named]]
    total = np.bincount(group[named], wanted)[group[named]]
    if (total == 0).any():
        kinds = sorted(set(rows["kind"].to_numpy()[named][total == 0]))
        raise UserError(
            f"classify.kind_shares gives share zero to every named kind of some group ({', '.join(kinds)}): nothing is left "
            "to draw there. Give one of them a share, or name them in no share."
        )
    weights = weights.copy()
    weights[named] = wanted * mass / total
    return weights


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
