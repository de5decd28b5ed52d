"""Do the fairness stage's intervals cover? Simulated populations whose every figure is known, against the plain percentile
bootstrap.

Coverage is the share of simulations whose interval holds the true value (of one run: of its two or one classifiers; of five: of
the mean over all runs). Widths are medians, beside those of an exact test turned into an interval (`_references.py`). Of one run's
balanced accuracy and differences in it and in AUC there is none: the reference is the range that holds 95 % of the estimates'
errors, which nobody knows outside a simulation.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context

import numpy as np
from cgddi.core.answers import Answers, interval_of
from cgddi.core.bootstrap import stratified_weights
from cgddi.core.images import TONES
from cgddi.core.metrics import area_under_curve, run_metrics
from cgddi.stages.fairness import estimates
from scipy.special import expit, ndtri

from benchmarks._population import POPULATIONS, Population, draw_scores, measured, run_truth
from benchmarks._references import (
    CONFIDENCE,
    DRAWS,
    Curves,
    between,
    clopper_pearson,
    exact_auc,
    exact_disparity,
    exact_disparity_difference,
    exact_paired,
    told,
)

RUNS = (1, 5)
RESAMPLES, SEEDS = 400, 4
"""Replicates of the plain bootstrap, and different sets of draws."""
PART = 100
"""Simulations of one process at a time."""
EVERY, EXACT = 4, 40
"""Bootstrap and differences of figures that compare tones: in every fourth simulation; exact tests of these and of paired
shares: in the first so many of all."""
SHARES = [("accuracy", "all"), ("accuracy", "dark")] + [
    (metric, group) for metric in ("sensitivity", "specificity") for group in ("light", "dark")
]
SMOOTH = [*SHARES, ("balanced_accuracy", "all"), ("auc", "all"), ("auc", "light"), ("auc", "dark")]
PAIRED = [
    ("accuracy", "all"),
    ("accuracy", "dark"),
    ("sensitivity", "all"),
    ("balanced_accuracy", "all"),
    ("auc", "all"),
]

Cell = tuple[str, str, str]
"""("" or "difference", metric, group)."""


class Tally:
    """What the simulations found, by cell."""

    def __init__(self):
        self.covered: dict[Cell, list[bool]] = defaultdict(list)
        self.width: dict[Cell, list[float]] = defaultdict(list)
        self.error: dict[Cell, list[float]] = defaultdict(list)
        self.exact: dict[Cell, list[float]] = defaultdict(list)
        self.ours_then: dict[Cell, list[float]] = defaultdict(list)
        self.plain_covered: dict[Cell, list[bool]] = defaultdict(list)
        self.plain_width: dict[Cell, list[float]] = defaultdict(list)

    def add(self, cell: Cell, low: float, high: float, truth: float, estimate: float) -> None:
        self.covered[cell].append(low - 1e-9 <= truth <= high + 1e-9)
        self.width[cell].append(high - low)
        self.error[cell].append(estimate - truth)

    def extend(self, other: Tally) -> Tally:
        """With another's simulations after these."""
        for name, found in vars(self).items():
            for cell, values in vars(other)[name].items():
                found[cell].extend(values)
        return self

    def add_exact(self, cell: Cell, width: float) -> None:
        """The width of the exact test of the simulation added last."""
        self.exact[cell].append(width)
        self.ours_then[cell].append(self.width[cell][-1])


def answers_of(scores: np.ndarray, tones: np.ndarray, labels: np.ndarray) -> Answers:
    """What the fairness stage would read of classifiers with these scores (runs, N)."""
    chance = expit(scores)
    return Answers(labels, tones, (scores > 0).astype(float), np.stack([1 - chance, chance], -1))


def simulate(population: Population, runs: int, simulations: int, first: int = 0, extras: bool = True) -> Tally:
    """Intervals of two regimes of `runs` runs on the same photos, again and again.

    Args:
        first: number of the first simulation.
        extras: also differences, exact tests and the plain bootstrap.
    """
    rng = np.random.default_rng([first, runs, *population.counts.ravel()])
    tones, labels = population.layout()
    many = [run_truth(side.draw_runs(40000, rng), side.counts) for side in population.regimes]
    truths = [{key: value.mean() for key, value in found.items()} for found in many]
    tally, known = Tally(), told(population, runs) if extras and runs > 1 else {}
    for number in range(first, first + simulations):
        means = [side.draw_runs(runs, rng) for side in population.regimes]
        if runs == 1:
            truths = [{key: value[0] for key, value in run_truth(m, population.counts).items()} for m in means]
        scores = draw_scores(means, tones, labels, rng)
        both = [answers_of(part, tones, labels) for part in scores]
        single(tally, both[0], truths[0], number, extras, known)
        if extras:
            paired(tally, both, [measured(part, tones, labels) for part in scores], truths, number, known)
    return tally


def values_of(answers: Answers) -> dict[tuple[str, str], float]:
    """Every figure as the tables give it."""
    one = np.ones((1, len(answers.labels)))
    by_run = [
        run_metrics(answers.labels, called.astype(int), chance, answers.tones, one)
        for called, chance in zip(answers.predicted, answers.probability, strict=True)
    ]
    return {key: float(np.mean([run[key][0] for run in by_run])) for key in by_run[0]}


def single(tally: Tally, answers: Answers, truth: dict, number: int, extras: bool, known: dict[Cell, Curves]) -> None:
    """Every figure of one regime; known: see `told`."""
    values = values_of(answers)
    for metric, group in SMOOTH if extras else []:
        interval = interval_of(answers, metric, group, np.array([values[metric, group]]), CONFIDENCE)
        cell, value = ("", metric, group), values[metric, group]
        tally.add(cell, *interval, truth[metric, group], value)
        tally.add_exact(cell, between(known[cell], value) if known else exact_smooth(answers, metric, group, value))
    found = estimates.disparities_of(answers, CONFIDENCE, DRAWS, number % SEEDS)
    for metric, figure in found.items():
        if figure is None:
            continue
        cell = ("", metric, "all")
        tally.add(cell, figure.low, figure.high, truth[metric, "all"], values[metric, "all"])
        if extras and number < EXACT:
            tally.add_exact(cell, exact_disparity(answers, metric))
    if extras and number % EVERY == 0:
        for key, drawn in plain_bootstrap(answers, number).items():
            _plain(tally, ("", *key), drawn, truth[key])


def paired(
    tally: Tally, both: list[Answers], values: list[dict], truths: list[dict], number: int, known: dict[Cell, Curves]
) -> None:
    """Differences between two regimes; values: by figure and run, see `measured`."""
    for metric, group in PAIRED:
        cell, sides = ("difference", metric, group), np.stack([side[metric, group] for side in values])
        found = estimates.difference(*both, metric, group, sides, CONFIDENCE)
        value = float(sides[0].mean() - sides[1].mean())
        tally.add(cell, found.low, found.high, truths[0][metric, group] - truths[1][metric, group], value)
        if known:
            tally.add_exact(cell, between(known[cell], value))
        elif metric in ("accuracy", "sensitivity") and number < EXACT:
            here = both[0].group(group) & ((both[0].labels == 1) | (metric == "accuracy"))
            apart = (both[0].right - both[1].right)[0, here]
            tally.add_exact(
                cell, float(np.ptp(exact_paired(int((apart > 0).sum()), int((apart < 0).sum()), len(apart))))
            )
    if number % EVERY:
        return
    alike = estimates.correlations(*both)
    sides = estimates.disparities_of_both(*both, CONFIDENCE, DRAWS, number % SEEDS)
    for metric in estimates.PAIRED:
        first, second = (side[metric] for side in sides)
        if first is None or second is None:
            continue
        low, value, high = estimates.disparity_difference(first, second, alike[metric])
        cell = ("difference", metric, "all")
        tally.add(cell, low, high, truths[0][metric, "all"] - truths[1][metric, "all"], value)
        if number < EXACT:
            tally.add_exact(cell, exact_disparity_difference(both, metric, alike[metric]))
    drawn = [plain_bootstrap(answers, number) for answers in both]
    keys = [*PAIRED, *((metric, "all") for metric in estimates.PAIRED)]
    for key in keys:
        _plain(tally, ("difference", *key), drawn[0][key] - drawn[1][key], truths[0][key] - truths[1][key])


# ---- references


def plain_bootstrap(answers: Answers, number: int) -> dict[tuple[str, str], np.ndarray]:
    """Replicates as most papers draw them: photos within tone and class, and runs, with replacement."""
    weights = _weights(answers.tones.tobytes(), answers.labels.tobytes(), number % SEEDS)
    rng = np.random.default_rng(number % SEEDS)
    runs = len(answers.predicted)
    choice = rng.integers(0, runs, (runs, RESAMPLES))
    by_run: dict = defaultdict(list)
    for called, chance in zip(answers.predicted, answers.probability, strict=True):
        table = disparity_inputs(answers, called, weights)
        for key, value in table.items():
            by_run[key].append(value)
        for group in ("all", "light", "dark"):
            here = answers.group(group)
            curve = area_under_curve(answers.labels[here] == 1, chance[here, 1], weights[:, here])
            by_run["auc", group].append(curve)
    return {key: np.array(value)[choice, np.arange(RESAMPLES)].mean(0) for key, value in by_run.items()}


def disparity_inputs(answers: Answers, called: np.ndarray, weights: np.ndarray) -> dict[tuple[str, str], np.ndarray]:
    """Every figure but AUC under weights (B, N), from rates by tone and class."""
    counts = np.array([[((answers.tones == g) & (answers.labels == c)).sum() for c in range(2)] for g in range(3)])
    onehot = np.zeros((len(called), 6))
    onehot[np.arange(len(called)), answers.tones * 2 + answers.labels] = called == answers.labels
    recall = np.clip((weights @ onehot).reshape(-1, 3, 2) / counts, 1e-12, 1 - 1e-12)
    with np.errstate(all="ignore"):
        found = run_truth(ndtri(recall) * np.array([-1, 1]), counts)
    return {key: value for key, value in found.items() if key[0] != "auc"}


@cache
def _weights(tones: bytes, labels: bytes, seed: int) -> np.ndarray:
    return stratified_weights(np.frombuffer(tones, int), np.frombuffer(labels, int), RESAMPLES, seed)


def _plain(tally: Tally, cell: Cell, drawn: np.ndarray, truth: float) -> None:
    low, high = np.nanquantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    tally.plain_covered[cell].append(bool(low - 1e-9 <= truth <= high + 1e-9))
    tally.plain_width[cell].append(high - low)


def exact_smooth(answers: Answers, metric: str, group: str, value: float) -> float:
    """Width of the exact test of one run's share or AUC; NaN where there is none."""
    here = answers.group(group)
    if metric == "auc":
        malignant = int((answers.labels[here] == 1).sum())
        return between(exact_auc(malignant, int(here.sum()) - malignant), value)
    if metric == "balanced_accuracy":
        return float("nan")
    if metric != "accuracy":
        here = here & (answers.labels == (metric == "sensitivity"))
    low, high = clopper_pearson(round(value * here.sum()), int(here.sum()))
    return high - low


# ---- rows


def rows_of(population: Population, runs: int, tally: Tally) -> Iterator[dict]:
    """A row per figure."""
    for cell, covered in tally.covered.items():
        kind, metric, group = cell
        figure = f"{kind} in {metric}, {group}" if kind else f"{metric}, {group}"
        width = float(np.median(tally.width[cell]))
        if np.isfinite(tally.exact[cell]).any():
            reference, exact = "exact test", float(np.nanmedian(tally.exact[cell]))
            ratio = float(np.median(tally.ours_then[cell])) / exact
        else:
            low, high = np.nanquantile(tally.error[cell], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            reference, exact = "range of errors", float(high - low)
            ratio = width / exact
        plain = tally.plain_covered[cell]
        yield {
            "name": f"coverage of {figure}: {population.name}, {runs} run{'s' * (runs > 1)}",
            "unit": "% of simulations",
            "ours": round(100 * float(np.mean(covered)), 1),
            "reference": round(100 * float(np.mean(plain)), 1) if plain else None,
            "ratio": round(ratio, 2),
            "width": round(width, 3),
            "bootstrap_width": round(float(np.nanmedian(tally.plain_width[cell])), 3) if plain else None,
            "reference_width": round(exact, 3),
            "reference_width_of": reference,
            "figure": figure,
            "population": population.name,
            "runs": runs,
            "simulations": len(covered),
        }


def run(simulations: int = 2000) -> Iterator[dict]:
    """A row per figure, population and number of runs; `reference` is the plain bootstrap's coverage, `ratio` our median width
    over that of `reference_width_of`. Every core simulates."""
    assert TONES == ("light", "medium", "dark")
    cells = [(population, runs) for runs in sorted(RUNS, reverse=True) for population in POPULATIONS]
    parts = [(*cell, min(PART, simulations - first), first) for cell in cells for first in range(0, simulations, PART)]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        tallies = dict.fromkeys(range(len(cells)))
        for (population, runs, _, first), tally in zip(
            parts, pool.map(simulate, *zip(*parts, strict=True)), strict=True
        ):
            place = cells.index((population, runs))
            tallies[place] = tallies[place].extend(tally) if first else tally
            if first + PART >= simulations:
                yield from rows_of(population, runs, tallies.pop(place))


def table(rows: list[dict]) -> str:
    """Rows as the Markdown table of docs/statistics.md."""
    columns = [(p.name, runs) for p in POPULATIONS for runs in RUNS]
    cells = {(row["figure"], row["population"], row["runs"]): row for row in rows}
    heads = [f"{name}; {runs} run{'s' * (runs > 1)}" for name, runs in columns]
    lines = ["| " + " | ".join(["Figure", *heads]) + " |", "|" + " --- |" * (len(heads) + 1)]
    for figure in dict.fromkeys(row["figure"] for row in rows):
        found = [cells.get((figure, *column)) for column in columns]
        texts = [
            "" if row is None else f"{row['ours']:.1f} ({row['reference']:.0f}), {row['width']:.2f}, {row['ratio']:.2f}"
            for row in found
        ]
        lines.append("| " + " | ".join([figure.replace("_", " "), *texts]) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table([json.loads(line) for line in sys.stdin]))
