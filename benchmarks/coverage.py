"""Do the fairness stage's intervals cover? Simulated populations whose every figure is known, against the plain percentile
bootstrap.

Coverage is the share of simulations whose interval holds the true value (of one run: of its two or one classifiers; of five: of
the mean over all runs). Widths are medians, beside those of an exact test turned into an interval: Clopper and Pearson's for
shares, McNemar's for paired differences of shares, the exact distribution of binormal scores for AUCs, and for figures that
compare tones the largest p-value over the least and the greatest rate within a 99.9 % region (Berger and Boos 1994). Where there
is no exact test (several runs, other differences) the reference is the range that holds 95 % of the estimates' errors, which
nobody knows outside a simulation.
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
from cgddi.core import disparity, intervals, inversion
from cgddi.core.answers import Answers, interval_of
from cgddi.core.bootstrap import stratified_weights
from cgddi.core.images import TONES
from cgddi.core.metrics import area_under_curve, run_metrics
from cgddi.stages.fairness import estimates
from scipy.special import expit, ndtri
from scipy.stats import beta, chi2

from benchmarks._population import POPULATIONS, Population, draw_scores, run_truth

CONFIDENCE, RUNS = 0.95, (1, 5)
DRAWS, RESAMPLES, SEEDS = 200, 400, 4
"""Test sets per tested value, replicates of the plain bootstrap, and different sets of draws."""
PART = 100
"""Simulations of one process at a time."""
EVERY, EXACT = 4, 12
"""Bootstrap and differences of figures that compare tones: in every fourth simulation; exact tests of these: in so many."""
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
    mean = {key: value.mean() for key, value in run_truth(population.draw_runs(40000, rng), population.counts).items()}
    tally = Tally()
    for number in range(first, first + simulations):
        means = [population.draw_runs(runs, rng) for _ in range(2)]
        one = [{key: value[0] for key, value in run_truth(m, population.counts).items()} for m in means]
        truths = one if runs == 1 else [mean, mean]
        both = [answers_of(scores, tones, labels) for scores in draw_scores(means, tones, labels, rng)]
        single(tally, both[0], truths[0], number, extras)
        if extras:
            paired(tally, both, truths, number)
    return tally


def values_of(answers: Answers) -> dict[tuple[str, str], float]:
    """Every figure as the tables give it."""
    one = np.ones((1, len(answers.labels)))
    by_run = [
        run_metrics(answers.labels, called.astype(int), chance, answers.tones, one)
        for called, chance in zip(answers.predicted, answers.probability, strict=True)
    ]
    return {key: float(np.mean([run[key][0] for run in by_run])) for key in by_run[0]}


def single(tally: Tally, answers: Answers, truth: dict, number: int, extras: bool) -> None:
    """Every figure of one regime."""
    values = values_of(answers)
    for metric, group in SMOOTH if extras else []:
        interval = interval_of(answers, metric, group, np.array([values[metric, group]]), CONFIDENCE)
        tally.add(("", metric, group), *interval, truth[metric, group], values[metric, group])
        if len(answers.predicted) == 1:
            exact_smooth(tally, answers, metric, group, values[metric, group])
    found = estimates.disparities_of(answers, CONFIDENCE, DRAWS, number % SEEDS)
    for metric, figure in found.items():
        if figure is None:
            continue
        cell = ("", metric, "all")
        tally.add(cell, figure.low, figure.high, truth[metric, "all"], values[metric, "all"])
        if extras and number < EXACT:
            low, high = exact_disparity(answers, metric)
            tally.add_exact(cell, high - low)
    if extras and number % EVERY == 0:
        for key, drawn in plain_bootstrap(answers, number).items():
            _plain(tally, ("", *key), drawn, truth[key])


def paired(tally: Tally, both: list[Answers], truths: list[dict], number: int) -> None:
    """Differences between two regimes."""
    for metric, group in PAIRED:
        sides = [values_of_auc(a) if metric == "auc" else np.zeros(len(a.predicted)) for a in both]
        found = estimates.difference(*both, metric, group, sides[0] - sides[1], CONFIDENCE)
        truth = truths[0][metric, group] - truths[1][metric, group]
        cell = ("difference", metric, group)
        tally.add(cell, found.low, found.high, truth, (found.low + found.high) / 2)
        if len(both[0].predicted) == 1 and metric in ("accuracy", "sensitivity"):
            here = both[0].group(group) & ((both[0].labels == 1) | (metric == "accuracy"))
            tally.add_exact(cell, _mcnemar_width(*(answers.right[0, here] for answers in both)))
    if number % EVERY:
        return
    alike = estimates.correlations(*both)
    sides = [estimates.disparities_of(answers, CONFIDENCE, DRAWS, number % SEEDS) for answers in both]
    for metric in estimates.PAIRED:
        first, second = (side[metric] for side in sides)
        if first is None or second is None:
            continue
        low, value, high = estimates.disparity_difference(first, second, alike[metric])
        truth = truths[0][metric, "all"] - truths[1][metric, "all"]
        tally.add(("difference", metric, "all"), low, high, truth, value)
    drawn = [plain_bootstrap(answers, number) for answers in both]
    keys = [*PAIRED, *((metric, "all") for metric in estimates.PAIRED)]
    for key in keys:
        _plain(tally, ("difference", *key), drawn[0][key] - drawn[1][key], truths[0][key] - truths[1][key])


def values_of_auc(answers: Answers) -> np.ndarray:
    """AUC by run, (runs,)."""
    positive = answers.labels == 1
    return np.nanmean(intervals.placements(answers.probability[..., 1], positive)[0], axis=1)


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


def exact_smooth(tally: Tally, answers: Answers, metric: str, group: str, value: float) -> None:
    """Width of the exact test of a share or an AUC."""
    here = answers.group(group)
    if metric in ("sensitivity", "specificity"):
        here = here & (answers.labels == (metric == "sensitivity"))
    n = int(here.sum())
    if metric == "auc":
        m = int((answers.labels[here] == 1).sum())
        low, high = exact_auc(m, n - m)
        tally.add_exact(("", metric, group), float(np.interp(value, *high) - np.interp(value, *low)))
    elif metric != "balanced_accuracy":
        low, high = _clopper_pearson(round(value * n), n)
        tally.add_exact(("", metric, group), high - low)


def _clopper_pearson(right: int, images: int) -> tuple[float, float]:
    tail = (1 - CONFIDENCE) / 2
    low = 0.0 if right == 0 else beta.ppf(tail, right, images - right + 1)
    return float(low), 1.0 if right == images else float(beta.ppf(1 - tail, right + 1, images - right))


def _mcnemar_width(first: np.ndarray, second: np.ndarray) -> float:
    """Of the exact conditional interval of the difference of two shares of the same photos."""
    only, both = int(((first == 1) & (second == 0)).sum()), int((first != second).sum())
    if not both:
        return float("nan")
    low, high = _clopper_pearson(only, both)
    return 2 * (high - low) * both / len(first)


@cache
def exact_auc(m: int, n: int) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(measured AUCs, limit) for the lower and the upper limit, from the distribution of the AUC of binormal scores."""
    rng = np.random.default_rng(0)
    up, down = rng.normal(size=(1500, m)), rng.normal(size=(1500, n))
    true = np.linspace(0.4, 0.999, 60)
    ends = []
    for area in true:
        scores = np.concatenate([up + np.sqrt(2) * ndtri(area), down], 1)
        rank = scores.argsort(1).argsort(1)[:, :m].sum(1) + m
        drawn = (rank - m * (m + 1) / 2) / (m * n)
        ends.append(np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    least, greatest = np.array(ends).T
    return (np.append(greatest, 1.001), np.append(true, 1.0)), (np.append(least, 1.0), np.append(true, 1.0))


def exact_disparity(answers: Answers, metric: str) -> tuple[float, float]:
    """Interval of the values for which the largest p-value over all rates that have them is not below the level."""
    figure = disparity.figures_for(2)[metric]
    families = [answers.families[name] for name in figure.families]
    value = disparity.VALUE[figure.value]
    grids = [inversion.rate_grid(family) for family in families]
    if len(grids) == 1:
        rates, deviance, tested = grids[0].rates, grids[0].deviance, value(grids[0].low, grids[0].high)
    else:
        profiles = [inversion.family_profile(grid, value, 30) for grid in grids]
        i, j = (part.ravel() for part in np.indices([len(p.value) for p in profiles]))
        rates = np.concatenate([profiles[0].rates[i], profiles[1].rates[j]], 1)
        deviance = profiles[0].deviance[i] + profiles[1].deviance[j]
        tested = disparity.value_of(figure, rates.transpose(1, 2, 0))
    region = deviance <= chi2.ppf(0.999, 3 * len(grids)) + deviance.min()
    rates, tested = rates[region], tested[region]
    drawn = disparity.value_of(figure, inversion.draw(families, rates, DRAWS, 0)[1]).mean(1)
    measured = disparity.measured_value(figure, families)
    tail = (1 - CONFIDENCE) / 2 - 0.0005
    kept = ((drawn >= measured - 1e-9).mean(1) > tail) & ((drawn <= measured + 1e-9).mean(1) > tail)
    equal = disparity.EQUAL.get(figure.value)
    fair = (drawn >= measured - 1e-9) if equal == 0 else (drawn <= measured + 1e-9)
    kept |= (tested == equal) & (fair.mean(1) > tail) if equal is not None else False
    return (float(tested[kept].min()), float(tested[kept].max())) if kept.any() else (measured, measured)


# ---- rows


def rows_of(population: Population, runs: int, tally: Tally) -> Iterator[dict]:
    """A row per figure."""
    for cell, covered in tally.covered.items():
        kind, metric, group = cell
        figure = f"{kind} in {metric}, {group}" if kind else f"{metric}, {group}"
        width = float(np.median(tally.width[cell]))
        if tally.exact[cell]:
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
