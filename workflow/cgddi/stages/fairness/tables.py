"""The long tables: one row per figure, with its interval, the counts it rests on and the published value beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from cgddi.core.bootstrap import Bootstrap, Estimate, Run, Setting
from cgddi.core.images import TONES
from cgddi.core.metrics import confusion, equality_of_opportunity, run_metrics
from cgddi.stages.fairness.published import columns, published_for
from cgddi.stages.fairness.settings import FairnessSettings

COMMON_ABOVE, RARE_FROM = 10, 3
"""A disease with more real images than the first is common, with as many as the second rare, below very rare (thesis)."""
RARITIES = ("common", "rare", "very rare")
BY_RARITY = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc")
SUMMARY_METRICS = ("balanced_accuracy", "auc", "sensitivity", "specificity", "pqd", "dpm", "eom")
"""Figures over all test images whose differences between regimes are tested; accuracy is tested by group too."""


def heading(setting: Setting) -> dict[str, Any]:
    """The columns that name a setting. `real_used` counts the real training images of its (first) run's subset, `real_beyond` the
    others that generators or starting weights learnt from."""
    record = setting.runs[0].record
    return {
        "split": setting.split,
        "regime": setting.regime,
        "method": setting.method,
        "task": record["task"],
        "runs": len(setting.runs),
        "selection": record["selection"],
        "real_used": record["real_images"]["used"],
        "real_beyond": max(run.record["real_images"]["beyond"] for run in setting.runs),
        "caveats": "; ".join(setting.caveats),
    }


def figure(estimate: Estimate) -> dict[str, Any]:
    """The columns of a figure; `value` is "undefined" where it does not exist."""
    if not estimate.defined:
        return {"value": "undefined", "low": "undefined", "high": "undefined", "undefined_replicates": 1.0}
    names = ("value", "low", "high")
    return {name: round(getattr(estimate, name), 6) for name in names} | {
        "undefined_replicates": round(estimate.undefined, 6)
    }


def in_group(run: Run, group: str) -> np.ndarray:
    """Test images (N,) bool of a group: "all" or a tone."""
    return np.ones(len(run.labels), bool) if group == "all" else run.tones == TONES.index(group)


def counts(runs: Sequence[Run], group: str) -> dict[str, Any]:
    """Test images of a group and, up to three classes, by class; repeated splits are added up, seeds are not."""
    first = {run.record["split"]: run for run in runs}.values()
    classes = runs[0].classes
    by_class = sum(np.bincount(run.labels[in_group(run, group)], minlength=len(classes)) for run in first)
    small = dict(zip(classes, by_class.tolist(), strict=True)) if len(classes) <= 3 else {}
    return {"images": int(by_class.sum()), **{f"images_{name}": n for name, n in small.items()}}


def wilson(right: float, images: int, confidence: float) -> tuple[float, float]:
    """Wilson interval of a share of test images: never of zero width, and seeds are not counted as images."""
    interval = binomtest(round(right), images).proportion_ci(confidence, method="wilson")
    return round(interval.low, 6), round(interval.high, 6)


def eom_under_one_flip(run: Run) -> tuple[float, float, float]:
    """EOM, and the least and greatest EOM after one test image's prediction is flipped: with few malignant images of a tone, far
    apart.

    A right prediction becomes the most probable other class, a wrong one becomes right. All NaN where EOM is undefined.

    Returns:
        (eom, lowest, highest).
    """
    image = np.arange(len(run.labels))
    base = confusion(run.labels, run.predicted, run.tones, len(run.classes), np.ones((1, len(image))))
    others = run.probability.copy()
    others[image, run.labels] = -1
    flipped = np.where(run.predicted == run.labels, others.argmax(1), run.labels)
    tables = np.repeat(base, len(image), axis=0)
    tables[image, run.tones, run.labels, run.predicted] -= 1
    tables[image, run.tones, run.labels, flipped] += 1
    value, moved = float(equality_of_opportunity(base)[0]), equality_of_opportunity(tables)
    if not np.isfinite(value):
        return float("nan"), float("nan"), float("nan")
    return value, float(np.nanmin(moved)), float(np.nanmax(moved))


def all_metrics(run: Run, weights: np.ndarray) -> dict:
    """`run_metrics` of a run."""
    return run_metrics(run.labels, run.predicted, run.probability, run.tones, weights)


def metrics_table(settings: Sequence[Setting], bootstrap: Bootstrap, options: FairnessSettings) -> pd.DataFrame:
    """Every metric of every setting, overall and by tone, with interval, counts and the published value where there is one."""
    shares = {"accuracy": "images", "sensitivity": "images_malignant", "specificity": "images_benign"}
    rows = []
    for setting in settings:
        for (name, group), (by_run, replicates) in bootstrap.replicates(setting, all_metrics).items():
            row = {**heading(setting), "metric": name, "group": group, **figure(bootstrap.estimate(by_run, replicates))}
            row["undefined_runs"] = int((~np.isfinite(by_run)).sum())
            spread = float(by_run.std(ddof=1)) if len(by_run) > 1 else float("nan")
            row["std_runs"] = round(spread, 6) if np.isfinite(spread) else None
            row.update(counts(setting.runs, group))
            images = row.get(shares.get(name, ""))
            if images and row["value"] != "undefined":
                low, high = wilson(row["value"] * images, images, options.confidence)
                row.update(wilson_low=low, wilson_high=high)
            rows.append({**row, **columns(published_for(setting, name, group, options.published))})
        flips = np.asarray([eom_under_one_flip(run) for run in setting.runs]).mean(0)
        for name, value in zip(("eom_lowest_under_one_flip", "eom_highest_under_one_flip"), flips[1:], strict=True):
            row = {**heading(setting), "metric": name, "group": "all", **figure(Estimate(value, value, value, 0.0))}
            rows.append({**row, "low": None, "high": None, **counts(setting.runs, "all")})
    return pd.DataFrame(rows)


def by_tone_table(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of `metrics_table` that belong to a tone, one line per setting and tone, with value, low and high per metric."""
    rows = []
    keys = ["split", "regime", "method", "group"]
    about = [name for name in metrics.columns if name.startswith("images")]
    about += ["runs", "caveats", "real_used", "real_beyond"]
    for key, part in metrics[metrics["group"].isin(TONES)].groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True)) | part.iloc[0][about].to_dict()
        for line in part.itertuples(index=False):
            row.update({line.metric: line.value, f"{line.metric}_low": line.low, f"{line.metric}_high": line.high})
        rows.append(row)
    return pd.DataFrame(rows).rename(columns={"group": "tone"})


def rarity_of(count: int) -> str:
    """common, rare or very rare, by the number of real images of the concept."""
    return RARITIES[0] if count > COMMON_ABOVE else RARITIES[1] if count >= RARE_FROM else RARITIES[2]


def rarities(run: Run, options: FairnessSettings) -> np.ndarray:
    """Rarity of the disease of each test image, (N,)."""
    sizes = run.record["concept_images"][options.rarity_counts]
    return np.asarray([rarity_of(sizes.get(name, 0)) for name in run.images["concept"]])


def by_rarity_table(settings: Sequence[Setting], bootstrap: Bootstrap, options: FairnessSettings) -> pd.DataFrame:
    """Metrics by rarity of the disease, overall and by tone; groups without an image are listed as undefined."""

    def metric(run: Run, weights: np.ndarray) -> dict:
        found, rarity = {}, rarities(run, options)
        for name in RARITIES:
            here = rarity == name
            part = (run.labels[here], run.predicted[here], run.probability[here], run.tones[here])
            values = run_metrics(*part, weights[:, here])
            for group in ("all", *TONES):
                images = float((here & in_group(run, group)).sum())
                found["images", group, name] = np.full(len(weights), images)
                found |= {(key, group, name): values[key, group] for key in BY_RARITY if (key, group) in values}
        return found

    rows = []
    for setting in settings:
        found = bootstrap.replicates(setting, metric)
        for (name, group, rarity), (by_run, replicates) in found.items():
            if name == "images":
                continue
            row = {**heading(setting), "rarity": rarity, "metric": name, "group": group}
            row.update(figure(bootstrap.estimate(by_run, replicates)))
            row["images"] = int(round(found["images", group, rarity][0].mean()))
            published = published_for(setting, name, rarity, options.published) if group == "all" else None
            rows.append({**row, **columns(published)})
    return pd.DataFrame(rows)


def by_disease_table(settings: Sequence[Setting], options: FairnessSettings) -> pd.DataFrame:
    """Accuracy by disease with its Wilson interval (test images only: seeds are averaged, not counted as images)."""
    rows = []
    for setting in settings:
        splits = [run.record["split"] for run in setting.runs]
        parts = []
        for run in setting.runs:
            tally = {"images": 1, "right": run.labels == run.predicted, "positive": run.labels == 1}
            by_concept = pd.DataFrame(tally).groupby(run.images["concept"].to_numpy()).sum()
            parts.append(by_concept / splits.count(run.record["split"]))
        sizes = setting.runs[0].record["concept_images"][options.rarity_counts]
        for concept, tally in pd.concat(parts).groupby(level=0).sum().iterrows():
            images = round(tally["images"])
            low, high = wilson(tally["right"], images, options.confidence)
            row = {**heading(setting), "concept": concept, "rarity": rarity_of(sizes.get(concept, 0)), "images": images}
            row.update(correct=round(tally["right"], 3), accuracy=round(tally["right"] / images, 6), low=low, high=high)
            row["splits"] = len(set(splits))
            if len(setting.runs[0].classes) == 2:
                row["images_positive"] = round(tally["positive"])
            rows.append(row)
    return pd.DataFrame(rows)


def mcnemar(first: np.ndarray, second: np.ndarray) -> tuple[int, int, float]:
    """Exact McNemar test (Dietterich 1998; binomial form).

    Args:
        first, second: bool (N,), whether each classifier is right on each image.

    Returns:
        Images only the first has right, images only the second has right, and the two-sided p-value (1 without any).
    """
    b, c = int((first & ~second).sum()), int((~first & second).sum())
    return b, c, 1.0 if b + c == 0 else float(binomtest(b, b + c, 0.5).pvalue)


def holm(p: pd.Series) -> pd.Series:
    """p-values adjusted for their number (Holm 1979), missing ones left out."""
    ordered = p.dropna().sort_values()
    return (ordered * np.arange(len(ordered), 0, -1)).cummax().clip(upper=1)


def ensemble_correct(runs: Sequence[Run]) -> np.ndarray:
    """Whether the mean probability over the runs (seeds of one split) predicts each test image right, bool (N,)."""
    return np.mean([run.probability for run in runs], axis=0).argmax(1) == runs[0].labels


def compare(first: Setting, second: Setting, bootstrap: Bootstrap) -> list[dict[str, Any]]:
    """Rows of the paired table: first minus second, over the runs both have (same split and seed).

    Each metric has a paired bootstrap interval over test images and runs, and the two-sided bootstrap p-value
    2 min(P(d <= 0), P(d >= 0)), at least 2/(B + 1). McNemar's test is on the mean probability over seeds, one vote per image.
    Settings without a common run give no rows.
    """
    left, right = ({(run.record["split"], run.seed): run for run in setting.runs} for setting in (first, second))
    common = [key for key in left if key in right]
    if not common:
        return []
    tested = [("accuracy", group) for group in ("all", *TONES)] + [(metric, "all") for metric in SUMMARY_METRICS]

    def metric(run: Run, weights: np.ndarray) -> dict:
        values = all_metrics(run, weights)
        return {key: values[key] for key in tested if key in values}

    a, b = (
        bootstrap.replicates(Setting(first.split, "", "", tuple(side[key] for key in common)), metric)
        for side in (left, right)
    )
    votes = [
        [ensemble_correct([side[key] for key in common if key[0] == split]) for side in (left, right)]
        for split in sorted({split for split, _ in common})
    ]
    only_first, only_second, p_mcnemar = mcnemar(*map(np.concatenate, zip(*votes, strict=True)))
    rows = []
    for key in a:
        differences = a[key][1] - b[key][1]
        estimate = bootstrap.estimate(a[key][0] - b[key][0], differences)
        good = differences[np.isfinite(differences)]
        p = float("nan")
        if estimate.defined and len(good):
            p = min(1.0, 2 * (min((good <= 0).sum(), (good >= 0).sum()) + 1) / (len(good) + 1))
        row = {"split": first.split, "method": first.method, "first": first.regime, "second": second.regime}
        row |= {"metric": key[0], "group": key[1], "difference": estimate.value, "low": estimate.low}
        row |= {"high": estimate.high, "p_bootstrap": p, "runs": len(common)}
        row |= {"images": sum(len(vote[0]) for vote in votes), "undefined_replicates": estimate.undefined}
        row["caveats"] = "; ".join(dict.fromkeys([*first.caveats, *second.caveats]))
        if key == ("accuracy", "all"):
            row.update(mcnemar_only_first=only_first, mcnemar_only_second=only_second, p_mcnemar=p_mcnemar)
        rows.append(row)
    return rows


def paired_table(settings: Sequence[Setting], bootstrap: Bootstrap, options: FairnessSettings) -> pd.DataFrame:
    """All comparisons of `options.compare`, with McNemar's p adjusted by Holm over them."""
    have = {(setting.split, setting.regime, setting.method): setting for setting in settings}
    rows = []
    for split, method in dict.fromkeys((setting.split, setting.method) for setting in settings):
        for pair in options.compare:
            left, right = (have.get((split, regime, method)) for regime in pair)
            if left and right and left.runs[0].classes == right.runs[0].classes:
                rows += compare(left, right, bootstrap)
    table = pd.DataFrame(rows)
    if "p_mcnemar" in table:
        table["p_mcnemar_holm"] = holm(table["p_mcnemar"])
    return table
