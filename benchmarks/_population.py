"""A simulated truth for `coverage`: photos by tone and class, classifiers (runs) drawn with effects of their own, two regimes
that see the same photos.

A photo i of tone g and class c gets from run r of a regime the score m[g, c] + u[r, c] + v[r, g, c] + sqrt(SHARED) a[i] +
sqrt(1 - SHARED) e[i, r], and is called malignant above 0. The photo's own part a is the same for all runs of a regime, and
correlated (`TOGETHER`) between the regimes. Every rate and AUC of a run is then a closed form of its means, and so is every figure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

SHARED, TOGETHER = 0.6, 0.7
"""Share of a score's variance that is the photo's, and the correlation of that part between two regimes."""
RUN, RUN_TONE = 0.2, 0.12
"""Standard deviations of a run's effect on a class, and of its further effect on one tone and class, in units of the score's
noise."""


@dataclass(frozen=True, eq=False)
class Population:
    """Recall by tone (rows) and class (benign, malignant), and how many test photos there are of each.

    Attributes:
        effects: how many times `RUN` and `RUN_TONE` its runs differ by. second: the regime compared with it, where that is another
            one of the same photos.
    """

    name: str
    counts: np.ndarray
    recall: np.ndarray
    effects: float = 1.0
    second: Population | None = None

    @property
    def regimes(self) -> tuple[Population, Population]:
        """The two that are compared."""
        return self, self.second or self

    @property
    def means(self) -> np.ndarray:
        """Mean score by tone and class, (3, 2): negative for benign photos."""
        return ndtri(self.recall) * np.array([-1, 1])

    def draw_runs(self, runs: int, rng: np.random.Generator) -> np.ndarray:
        """Mean scores by run, tone and class, (runs, 3, 2)."""
        effect = RUN * rng.normal(size=(runs, 1, 2)) + RUN_TONE * rng.normal(size=(runs, 3, 2))
        return self.means + self.effects * effect

    def moved(self, by: float) -> Population:
        """The same, its scores further on the right side by so many standard deviations of their noise."""
        return replace(self, recall=ndtr(ndtri(self.recall) + by))

    def layout(self) -> tuple[np.ndarray, np.ndarray]:
        """Tones and labels of the test photos, (N,) each."""
        cells = [(g, c) for g in range(3) for c in range(2) for _ in range(self.counts[g, c])]
        tones, labels = np.array(cells).T
        return tones, labels


def draw_scores(means: list[np.ndarray], tones, labels, rng: np.random.Generator) -> list[np.ndarray]:
    """Scores (..., runs, N) of regimes whose runs have the given mean scores (..., runs, 3, 2); their photos are the same."""
    photos = (*means[0].shape[:-3], 1, len(tones))
    common = rng.normal(size=photos)
    found = []
    for mean in means:
        own = np.sqrt(TOGETHER) * common + np.sqrt(1 - TOGETHER) * rng.normal(size=photos)
        noise = rng.normal(size=(*mean.shape[:-2], len(tones)))
        found.append(mean[..., tones, labels] + np.sqrt(SHARED) * own + np.sqrt(1 - SHARED) * noise)
    return found


def measured(scores: np.ndarray, tones: np.ndarray, labels: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """The figures that compare no tones, as a test measures them: of scores (..., N) by figure (...)."""
    right, found = (scores > 0) == labels, {}
    for group, here in (
        ("all", tones >= 0),
        *((name, tones == g) for g, name in enumerate(("light", "medium", "dark"))),
    ):
        found["accuracy", group] = right[..., here].mean(-1)
        classes = [here & (labels == c) for c in range(2)]
        recall = [right[..., part].mean(-1) for part in classes]
        found["specificity", group], found["sensitivity", group] = recall
        found["balanced_accuracy", group] = sum(recall) / 2
        benign, malignant = (part.sum() for part in classes)
        ranks = rankdata(scores[..., here], axis=-1)[..., labels[here] == 1].sum(-1)
        found["auc", group] = (ranks - malignant * (malignant + 1) / 2) / (malignant * benign)
    return found


def run_truth(means: np.ndarray, counts: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Every figure of runs on the population, from their mean scores (runs, 3, 2); values (runs,).

    Args:
        counts: test photos by tone and class: the population has their shares.
    """
    recall = ndtr(means * np.array([-1, 1]))
    shares = counts / counts.sum(1, keepdims=True)
    accuracy = (recall * shares).sum(-1)
    called = np.stack([1 - recall[..., 0], recall[..., 1]], -1)
    positive = (called * shares).sum(-1)
    found = {("accuracy", "all"): accuracy @ (counts.sum(1) / counts.sum())}
    weight = counts / counts.sum(0)
    found["specificity", "all"], found["sensitivity", "all"] = ((recall * weight).sum(1)).T
    found["balanced_accuracy", "all"] = (found["specificity", "all"] + found["sensitivity", "all"]) / 2
    difference = means[:, :, None, 1] - means[:, None, :, 0]
    pairs = weight[:, None, 1] * weight[None, :, 0]
    found["auc", "all"] = (ndtr(difference / np.sqrt(2)) * pairs).sum((1, 2))
    for g, tone in enumerate(("light", "medium", "dark")):
        found["accuracy", tone] = accuracy[:, g]
        found["specificity", tone], found["sensitivity", tone] = recall[:, g].T
        found["auc", tone] = ndtr(difference[:, g, g] / np.sqrt(2))
    ratio = recall.min(1) / recall.max(1)
    found["worst_tone_accuracy", "all"] = accuracy.min(1)
    found["pqd", "all"] = accuracy.min(1) / accuracy.max(1)
    negative = 1 - positive
    found["dpm", "all"] = (positive.min(1) / positive.max(1) + negative.min(1) / negative.max(1)) / 2
    found["eom", "all"] = ratio.mean(-1)
    spread = recall.max(1) - recall.min(1)
    found["equalized_odds_difference", "all"] = spread.max(-1)
    found["equal_opportunity_difference", "all"] = spread[:, 1]
    return found


PAPER = np.array([[34, 11], [34, 10], [38, 5]])
BALANCED = np.full((3, 2), 75)
EQUAL = np.array([[0.88, 0.75]] * 3)
UNEQUAL = np.array([[0.92, 0.85], [0.85, 0.75], [0.80, 0.55]])
REVERSED = np.array([[0.70, 0.60], [0.88, 0.70], [0.97, 0.90]])
SKEWED = np.array([[120, 40], [60, 9], [14, 4]])
HARD = np.array([[0.65, 0.62], [0.60, 0.66], [0.70, 0.50]])
POPULATIONS = [
    Population("132 photos, equal tones", PAPER, EQUAL),
    Population("132 photos, unequal tones", PAPER, UNEQUAL),
    Population("450 photos, equal tones", BALANCED, EQUAL),
    Population("450 photos, unequal tones", BALANCED, UNEQUAL),
    Population("132 photos, dark best", PAPER, REVERSED),
    Population("247 photos, few dark, hard", SKEWED, HARD),
    Population("132 photos, two unlike regimes", PAPER, EQUAL, second=Population("", PAPER, UNEQUAL, effects=2)),
]
"""The last three are no part of what the intervals were made with: they came afterwards. In the last a fair regime is compared with
an unfair one whose runs differ twice as much."""
