"""What the runs of a setting say of its test photos, and which interval belongs to which figure of theirs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from cgddi.core.bootstrap import Run, Setting
from cgddi.core.disparity import families_of
from cgddi.core.images import TONES
from cgddi.core.intervals import (
    Interval,
    auc_influence,
    auc_interval,
    likeness,
    share_interval,
    smooth_interval,
    strata_interval,
    within_bounds,
)

NONE: Interval = (float("nan"), float("nan"))
"""Of a figure that is undefined or has no interval."""


def photo_keys(run: Run) -> list[tuple]:
    """(id, concept, tone, label) of each test photo of a run."""
    return list(
        zip(run.images["image_id"], run.images["concept"], run.images["tone"], run.labels.tolist(), strict=True)
    )


@dataclass(frozen=True)
class Answers:
    """What the runs of a setting say of its test photos.

    Attributes:
        photos: what is known of each (see `photo_keys`). labels, tones: (N,). predicted: class, (runs, N). probability: (runs,
            N, C); both NaN where a run does not test a photo.
        units: the level that is drawn: the split where there are several, else (None) the run.
    """

    labels: np.ndarray
    tones: np.ndarray
    predicted: np.ndarray
    probability: np.ndarray
    units: tuple[str, ...] | None = None
    photos: tuple[tuple, ...] = ()

    @classmethod
    def of(cls, setting: Setting) -> Answers:
        """Those of a setting, photos of several splits joined by what is known of them."""
        keys = [photo_keys(run) for run in setting.runs]
        place = {key: n for n, key in enumerate(dict.fromkeys(key for part in keys for key in part))}
        shape = (len(setting.runs), len(place))
        predicted, probability = np.full(shape, np.nan), np.full((*shape, len(setting.runs[0].classes)), np.nan)
        labels, tones = np.zeros(len(place), int), np.zeros(len(place), int)
        for r, (run, part) in enumerate(zip(setting.runs, keys, strict=True)):
            here = [place[key] for key in part]
            predicted[r, here], probability[r, here] = run.predicted, run.probability
            labels[here], tones[here] = run.labels, run.tones
        splits = tuple(run.record["split"] for run in setting.runs)
        units = splits if len(set(splits)) > 1 else None
        return cls(labels, tones, predicted, probability, units, tuple(place))

    def within(self, chosen: np.ndarray) -> Answers:
        """The answers to some photos, (N,) or by run (runs, N)."""
        return replace(
            self,
            predicted=np.where(chosen, self.predicted, np.nan),
            probability=np.where(np.broadcast_to(chosen, self.predicted.shape)[..., None], self.probability, np.nan),
        )

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.probability.shape[2]

    @cached_property
    def right(self) -> np.ndarray:
        """0 or 1, (runs, N)."""
        return np.where(np.isnan(self.predicted), np.nan, self.predicted == self.labels)

    @cached_property
    def alike(self) -> float:
        """Correlation of two runs on one photo."""
        return likeness([self.right[:, here] for here in self.cells]) if len(self.predicted) > 1 else 1.0

    @property
    def cells(self) -> list[np.ndarray]:
        """Photos by tone and class, where there are any."""
        found = [(self.tones == g) & (self.labels == c) for g in range(len(TONES)) for c in range(self.classes)]
        return [here for here in found if here.any()]

    def group(self, name: str) -> np.ndarray:
        """Photos of "all" or of a tone that some run tests, bool (N,)."""
        tested = ~np.isnan(self.predicted).all(0)
        return tested if name == "all" else tested & (self.tones == TONES.index(name))

    def between(self, family: str) -> float | None:
        """Variance between runs of a tone's rate, on the logit scale and pooled over tones; None where that cannot be said."""
        found = self.families.get(family)
        return found.common + found.own if found and self.units is None and len(self.predicted) > 1 else None

    @cached_property
    def families(self) -> dict:
        """Rates that figures compare over tones."""
        return families_of(self.labels, self.tones, self.predicted, self.classes, len(TONES))


def interval_of(answers: Answers, metric: str, group: str, values: np.ndarray, confidence: float) -> Interval:
    """The interval of one figure of a setting, of all photos or of a tone; NaN for a figure that has none (calibration error).

    Args:
        metric, group: as in metrics.csv, none of those that compare tones. values: by run, all of them defined.
    """
    here, units = answers.group(group), answers.units
    labels, right = answers.labels[here], answers.right[:, here]
    if metric in ("accuracy", "sensitivity", "specificity"):
        chosen = labels >= 0 if metric == "accuracy" else labels == (metric == "sensitivity")
        family = {"accuracy": "accuracy", "sensitivity": "recall 1", "specificity": "recall 0"}[metric]
        between = None if group == "all" else answers.between(family)
        return share_interval(right[:, chosen], confidence, answers.alike, units, between)
    if metric == "balanced_accuracy":
        strata = [right[:, labels == c] for c in range(answers.classes)]
        weights = [1 / answers.classes] * answers.classes
        found = strata_interval(strata, weights, (0, 1), confidence, units, alike=answers.alike)
        return found.low, found.high
    if metric == "auc" and answers.classes == 2:
        return auc_interval(answers.probability[:, here, 1], labels == 1, confidence, units)
    if metric in ("auc", "f1"):
        influence = influence_of_auc(answers, here) if metric == "auc" else influence_of_f1(answers, here)
        found = smooth_interval(values, influence, confidence, units)
        photos = round((~np.isnan(right)).sum(1).mean())
        return within_bounds(found, float(values.mean()), photos, confidence)
    return NONE


def influence_of_auc(answers: Answers, here: np.ndarray) -> np.ndarray:
    """What each photo of a group (bool (N,)) adds to each run's AUC, (runs, n); of more than two classes the mean."""
    classes = [1] if answers.classes == 2 else range(answers.classes)
    score, labels = answers.probability[:, here], answers.labels[here]
    return np.mean([auc_influence(score[..., c], labels == c) for c in classes], axis=0)


def influence_of_f1(answers: Answers, here: np.ndarray) -> np.ndarray:
    """The same of F1 = 2 hits / (labelled + called)."""
    predicted, labels, found = answers.predicted[:, here], answers.labels[here], []
    for c in [1] if answers.classes == 2 else range(answers.classes):
        called = np.where(np.isnan(predicted), np.nan, predicted == c)
        hit, either = called * (labels == c), called + (labels == c)
        whole = np.nanmean(either, axis=1, keepdims=True)
        found.append((2 * hit - 2 * np.nanmean(hit, axis=1, keepdims=True) / whole * either) / whole)
    return np.mean(found, axis=0)
