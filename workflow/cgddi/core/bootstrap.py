"""Stratified bootstrap: replicates as weights, the same for every setting of a split, so that differences are paired."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cgddi.core.seeds import seed_for


@dataclass(frozen=True)
class Run:
    """One classifier's predictions of its test images, ordered by image."""

    path: str
    record: dict[str, Any]
    images: pd.DataFrame
    labels: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    tones: np.ndarray

    @property
    def seed(self) -> int:
        """The classifier's seed."""
        return int(self.record["run_seed"])

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(self.record["classes"])

    @property
    def caveats(self) -> list[str]:
        """What a reader must know before believing this run's figures."""
        found = []
        if self.record["selection"] == "test":
            found.append("epoch chosen on the test images")
        if not self.record["leakage"]["clean"]:
            found.append("leakage gate waived: training images touch held-out images")
        if self.record["leakage"].get("unknown_lineage"):
            found.append("lineage waived: given images or adapters may have seen test images")
        if self.record["real_images"]["beyond"]:
            found.append("learning curve: generators or starting weights saw real images outside the subset")
        return found


@dataclass(frozen=True)
class Setting:
    """Runs that are averaged: equal in regime, method and split (or family of splits), different in seed."""

    split: str
    regime: str
    method: str
    runs: tuple[Run, ...]

    @property
    def name(self) -> str:
        """split/regime/method."""
        return f"{self.split}/{self.regime}/{self.method}"

    @property
    def caveats(self) -> list[str]:
        """What a reader must know before believing the figures."""
        return list(dict.fromkeys(caveat for run in self.runs for caveat in run.caveats))


@dataclass(frozen=True)
class Estimate:
    """A value, its interval, and how many of its bootstrap replicates (or runs) were undefined."""

    value: float
    low: float
    high: float
    undefined: float

    @property
    def defined(self) -> bool:
        """Whether the value exists."""
        return bool(np.isfinite(self.value))


def stratified_weights(tones: np.ndarray, labels: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Counts of each image in `count` resamples drawn with replacement within each (tone, class), float64 (count, N)."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((count, len(labels)))
    for tone in np.unique(tones):
        for label in np.unique(labels):
            here = np.flatnonzero((tones == tone) & (labels == label))
            if len(here):
                weights[:, here] = rng.multinomial(len(here), np.full(len(here), 1 / len(here)), size=count)
    return weights


class Bootstrap:
    """Values and replicates of any metric of a setting; each replicate draws the runs with replacement as well as the images."""

    def __init__(self, count: int, confidence: float, seed: int):
        self.count, self.confidence, self.seed = count, confidence, seed
        self._weights: dict[str, np.ndarray] = {}

    def weights(self, run: Run) -> np.ndarray:
        """Replicates of a run's test images, (count, N): one set per split, whatever the regime, method or seed."""
        split = run.record["split"]
        if split not in self._weights or self._weights[split].shape[1] != len(run.labels):
            seed = seed_for(self.seed, "bootstrap", split)
            self._weights[split] = stratified_weights(run.tones, run.labels, self.count, seed)
        return self._weights[split]

    def replicates(self, setting: Setting, metric: Callable[[Run, np.ndarray], dict]) -> dict:
        """Per key of the metric: values by run (R,) and replicates averaged over resampled runs (count,).

        Args:
            setting: its runs. metric: (run, weights (B, N)) -> {key: (B,)}.
        """
        point: dict = {}
        drawn: dict = {}
        for run in setting.runs:
            for key, value in metric(run, np.ones((1, len(run.labels)))).items():
                point.setdefault(key, []).append(value[0])
            for key, value in metric(run, self.weights(run)).items():
                drawn.setdefault(key, []).append(value)
        runs = len(setting.runs)
        rng = np.random.default_rng(seed_for(self.seed, "bootstrap runs", setting.split, runs))
        choice, place = rng.integers(0, runs, (self.count, runs)), np.arange(self.count)[:, None]
        return {key: (np.asarray(point[key]), np.stack(drawn[key])[choice, place].mean(1)) for key in point}

    def estimate(self, by_run: np.ndarray, replicates: np.ndarray) -> Estimate:
        """Mean over runs with its percentile interval over the replicates that are defined.

        Where all of these are equal, as of one image in each cell, or of images that are all right, resampling says nothing of
        what other images would show: there is no interval.
        """
        good = replicates[np.isfinite(replicates)]
        value = float(by_run.mean()) if np.isfinite(by_run).all() else float("nan")
        if np.isfinite(value) and len(good) and np.ptp(good) <= 1e-12:
            return Estimate(value, float("nan"), float("nan"), 1 - len(good) / len(replicates))
        if not np.isfinite(value) or not len(good):
            return Estimate(value, float("nan"), float("nan"), 1.0)
        tail = (1 - self.confidence) / 2
        low, high = np.quantile(good, [tail, 1 - tail])
        return Estimate(value, float(low), float(high), 1 - len(good) / len(replicates))
