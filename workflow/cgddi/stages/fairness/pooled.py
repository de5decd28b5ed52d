"""Figures over several data sets, each with photos, generators and test images of its own: the data set is the unit, not the image.

A data set's figure is the mean over its classifiers' seeds. Intervals are Student's over data sets, so that they cover the draw of
photos, of generators, of classifiers and of test images alike; differences between regimes are paired by data set. They are about
the mean over all data sets of what a test set of this size measures: of figures that compare tones (PQD, DPM, EOM) that is less
than what they are on all photos (see `cgddi.core.inversion`), on both sides of a difference.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import permutation_test, t

from cgddi.core.bootstrap import Run
from cgddi.core.figures import md_row, plt, png
from cgddi.core.images import TONES
from cgddi.core.metrics import run_metrics
from cgddi.stages.fairness.render import (
    ACCURACY_COLUMNS,
    FAIRNESS_COLUMNS,
    RARITY_COLUMNS,
    SIGNS,
    per_cent,
    signs,
    split_caveats,
)
from cgddi.stages.fairness.settings import FairnessSettings
from cgddi.stages.fairness.tables import BY_RARITY, RARITIES, SUMMARY_METRICS, all_metrics, in_group, rarities

KEYS = ["method", "regime", "metric", "group"]
TESTED = [("accuracy", group) for group in ("all", *TONES, *RARITIES)] + [(metric, "all") for metric in SUMMARY_METRICS]
COLUMNS = (*ACCURACY_COLUMNS, *RARITY_COLUMNS, *FAIRNESS_COLUMNS)


def run_values(run: Run, options: FairnessSettings) -> dict[tuple[str, str], tuple[float, int]]:
    """(metric, group) -> (value, test images) of one run, by tone and by rarity of the disease; NaN where undefined."""
    one = np.ones((1, len(run.labels)))
    found = {
        (metric, group): (float(value[0]), int(in_group(run, group).sum()))
        for (metric, group), value in all_metrics(run, one).items()
    }
    rarity = rarities(run, options)
    for name in RARITIES:
        here = rarity == name
        part = (run.labels[here], run.predicted[here], run.probability[here], run.tones[here])
        values = run_metrics(*part, one[:, here])
        keys = [metric for metric in BY_RARITY if (metric, "all") in values]
        found |= {(metric, name): (float(values[metric, "all"][0]), int(here.sum())) for metric in keys}
    return found


def by_dataset(runs: Mapping[str, Iterable[Run]], options: FairnessSettings) -> pd.DataFrame:
    """One row per data set, method, regime, metric and group: mean over classifier seeds (NaN where a run is undefined).

    Returns:
        Columns dataset, method, regime, metric, group, value, runs, images, caveats.
    """
    rows = []
    for dataset, members in runs.items():
        for run in members:
            about = {"dataset": dataset, "method": run.record["method"], "regime": run.record["regime"]}
            about["caveats"] = "; ".join(run.caveats)
            for (metric, group), (value, images) in run_values(run, options).items():
                rows.append({**about, "metric": metric, "group": group, "value": value, "images": images})
    grouped = pd.DataFrame(rows).groupby(["dataset", *KEYS], sort=False)
    return grouped.agg(
        value=("value", lambda v: v.mean(skipna=False)),
        runs=("value", "size"),
        images=("images", "first"),
        caveats=("caveats", _joined),
    ).reset_index()


def interval(values: np.ndarray, confidence: float) -> tuple[float, float]:
    """Student interval of the mean of values (N,); NaN below two values or where one is NaN."""
    if len(values) < 2 or not np.isfinite(values).all():
        return float("nan"), float("nan")
    half = t.ppf((1 + confidence) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean() - half), float(values.mean() + half)


def pooled(table: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Mean over data sets with its interval, cut at 0 and 1; `undefined` where the figure does not exist in every data set."""
    rows = []
    for key, part in table.groupby(KEYS, sort=False):
        values = part["value"].to_numpy()
        good = np.isfinite(values)
        row: dict[str, Any] = dict(zip(KEYS, key, strict=True))
        # Every figure lies between 0 and 1; Student's interval knows nothing of that.
        low, high = np.clip(interval(values, confidence), 0, 1)
        figures = (values.mean(), low, high) if good.all() else ("undefined",) * 3
        row.update(zip(("value", "low", "high"), map(_rounded, figures), strict=True))
        row["std_datasets"] = _rounded(values.std(ddof=1)) if good.all() and len(values) > 1 else None
        row.update(datasets=len(values), defined=int(good.sum()), runs=int(part["runs"].sum()))
        row.update(images=int(part["images"].sum()), caveats=_joined(part["caveats"]))
        rows.append(row)
    return pd.DataFrame(rows)


def _joined(cells: Iterable[str]) -> str:
    return "; ".join(split_caveats(cells))


def _rounded(value):
    return value if isinstance(value, str) else round(float(value), 6)


def sign_flips(differences: np.ndarray) -> float:
    """Exact two-sided p of the mean of paired differences (N,) under all 2^N changes of sign; at least 2 / 2^N."""
    test = permutation_test(
        (differences, np.zeros_like(differences)),
        lambda a, b, axis: np.mean(a - b, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=np.inf if len(differences) <= 14 else 9999,
        rng=0,
    )
    return float(test.pvalue)


def differences(table: pd.DataFrame, compare: Sequence[tuple[str, str]], confidence: float) -> pd.DataFrame:
    """First regime minus second, paired by data set: mean, interval and p of Student's paired test, exact sign-flip p."""
    rows = []
    wide = table.pivot(index=["method", "metric", "group", "dataset"], columns="regime", values="value")
    known = set(wide.index.droplevel("dataset"))
    for method in dict.fromkeys(table["method"]):
        for first, second in compare:
            if first not in wide or second not in wide:
                continue
            for metric, group in TESTED:
                if (method, metric, group) not in known:
                    continue
                part = wide.loc[(method, metric, group)]
                values = (part[first] - part[second]).to_numpy()
                row = {"method": method, "first": first, "second": second, "metric": metric, "group": group}
                row |= dict.fromkeys(("difference", "low", "high", "p_t", "p_sign_flips"), "undefined")
                if len(values) > 1 and np.isfinite(values).all():
                    low, high = interval(values, confidence)
                    spread = values.std(ddof=1) / np.sqrt(len(values))
                    statistic = values.mean() / spread if spread else np.inf * np.sign(values.mean())
                    p = 2 * t.sf(abs(statistic), len(values) - 1) if values.any() else 1.0
                    row.update(difference=_rounded(values.mean()), low=_rounded(low), high=_rounded(high))
                    row.update(p_t=_rounded(p), p_sign_flips=_rounded(sign_flips(values)))
                rows.append({**row, "first_better": int((values > 0).sum()), "datasets": len(values)})
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame, tests: pd.DataFrame, confidence: float) -> str:
    """Two tables: figures with intervals, and paired differences with p; per cent."""
    about = f"{100 * confidence:.0f}% interval over data sets (Student)"
    meaning = "It is about the mean over all data sets that could be drawn, of figures as a test set of this size measures them."
    header = ["Setting", "Data sets", "Runs", *(c[2] for c in COLUMNS)]
    lines = [f"Per cent; in brackets the {about}. {meaning}", "", md_row(header), md_row(["---"] * len(header))]
    for (method, regime), part in table.groupby(["method", "regime"], sort=False):
        cells = {(row.metric, row.group): row for row in part.itertuples(index=False)}
        first = part.iloc[0]
        figures = [per_cent(cells.get(column[:2]), " to ") for column in COLUMNS]
        name = f"{method}, {regime}{signs(first['caveats'])}"
        lines.append(md_row([name, str(first["datasets"]), str(first["runs"]), *figures]))
    caveats = split_caveats(table["caveats"])
    lines += ["", *(f"{SIGNS[caveat]} {caveat}" for caveat in caveats), *([""] if caveats else [])]
    lines.append(
        f"Differences paired by data set, in points, with the {about}; p: Student's paired test, exact sign flips."
    )
    header = ["Difference", "Figure", "Points", "Better in", "p, Student", "p, sign flips"]
    lines += ["", md_row(header), md_row(["---"] * len(header))]
    for row in tests.itertuples(index=False):
        figure = row.metric if row.group == "all" else f"{row.metric}, {row.group}"
        cells = ["undefined"] * 3
        if row.difference != "undefined":
            points = f"{100 * row.difference:+.1f} ({100 * row.low:.1f} to {100 * row.high:.1f})"
            cells = [points, *(f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in (row.p_t, row.p_sign_flips))]
        better = f"{row.first_better} of {row.datasets}"
        lines.append(md_row([f"{row.method}: {row.first} - {row.second}", figure, cells[0], better, *cells[1:]]))
    return "\n".join([*lines, ""])


def plot(datasets: pd.DataFrame, table: pd.DataFrame) -> bytes:
    """Each figure of each regime with its interval, and in grey every data set, its regimes joined by a line; PNG bytes."""
    names = list(dict.fromkeys(zip(table["method"], table["regime"], strict=True)))
    alone = len({method for method, _ in names}) == 1
    ticks = [regime if alone else f"{method} / {regime}" for method, regime in names]
    figure, axes = plt.subplots(2, 6, figsize=(17, 7), layout="constrained")
    for axis in axes.flat[len(COLUMNS) :]:
        axis.axis("off")
    for axis, (metric, group, title) in zip(axes.flat, COLUMNS, strict=False):
        part = datasets[(datasets["metric"] == metric) & (datasets["group"] == group)]
        for _, line in part.groupby("dataset", sort=False):
            places = [names.index(name) for name in zip(line["method"], line["regime"], strict=True)]
            axis.plot(places, line["value"], "o-", c="#bbbbbb", ms=3, lw=0.8)
        for row in table[(table["metric"] == metric) & (table["group"] == group)].itertuples(index=False):
            place = names.index((row.method, row.regime))
            if row.value == "undefined":
                axis.text(place, 0.5, "undefined", ha="center", rotation=90, fontsize=7)
                continue
            axis.plot([place, place], [row.low, row.high], c="black", lw=1.5)
            axis.plot(place, row.value, "o", c="black", ms=5)
        axis.set(title=title if metric != "accuracy" else f"accuracy, {title.lower()}", xlim=(-0.5, len(names) - 0.5))
        axis.set_xticks(range(len(names)), ticks, fontsize=8, rotation=45, ha="right", rotation_mode="anchor")
        axis.grid(axis="y", lw=0.3)
    return png(figure)
