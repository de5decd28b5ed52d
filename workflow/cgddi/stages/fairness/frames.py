"""The long tables: one row per figure, with its interval and the counts it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import binomtest

from cgddi.core.bootstrap import Bootstrap, Estimate, Run, Setting
from cgddi.core.images import TONES
from cgddi.core.metrics import run_metrics
from cgddi.stages.fairness.flip import eom_under_one_flip
from cgddi.stages.fairness.published import published_for
from cgddi.stages.fairness.settings import FairnessSettings

RARITIES = ("common", "rare", "very rare")


def heading(setting: Setting) -> dict[str, Any]:
    """The columns that name a setting. `real_used` counts the real training images of its (first) run's subset, `real_beyond` the
    others that generators or starting weights learnt from."""
    return {
        "split": setting.split,
        "regime": setting.regime,
        "method": setting.method,
        "task": setting.runs[0].record["task"],
        "runs": len(setting.runs),
        "selection": setting.runs[0].record["selection"],
        "real_used": setting.runs[0].record["real_images"]["used"],
        "real_beyond": max(run.record["real_images"]["beyond"] for run in setting.runs),
        "marks": "; ".join(setting.marks),
    }


def figure(estimate: Estimate) -> dict[str, Any]:
    """The columns of a figure; `value` is "undefined" where it does not exist."""
    if not estimate.defined:
        return {"value": "undefined", "low": "undefined", "high": "undefined", "undefined_replicates": 1.0}
    return {
        "value": round(estimate.value, 6),
        "low": round(estimate.low, 6),
        "high": round(estimate.high, 6),
        "undefined_replicates": round(estimate.undefined, 6),
    }


def counts(runs: Sequence[Run], group: str) -> dict[str, Any]:
    """Test images of a group ("all" or a tone) and, by class, how many there are; repeated splits are added up."""
    first = {run.record["split"]: run for run in runs}.values()
    images, by_class = 0, np.zeros(len(runs[0].classes), int)
    for run in first:
        here = np.ones(len(run.labels), bool) if group == "all" else run.tones == TONES.index(group)
        images += int(here.sum())
        by_class += np.bincount(run.labels[here], minlength=len(by_class))
    small = dict(zip(runs[0].classes, by_class.tolist(), strict=True)) if len(by_class) <= 3 else {}
    return {"images": images, **{f"images_{name}": n for name, n in small.items()}}


def wilson(metric: str, row: dict[str, Any], confidence: float) -> dict[str, float]:
    """Wilson interval of a share of test images (accuracy, sensitivity, specificity): never of zero width, seeds not counted."""
    images = {"accuracy": "images", "sensitivity": "images_malignant", "specificity": "images_benign"}.get(metric)
    trials = row.get(images) if images else None
    if not trials or row["value"] == "undefined":
        return {}
    interval = binomtest(round(row["value"] * trials), trials).proportion_ci(confidence, method="wilson")
    return {"wilson_low": round(interval.low, 6), "wilson_high": round(interval.high, 6)}


def metrics_frame(settings: Sequence[Setting], bootstrap: Bootstrap, options: FairnessSettings) -> pd.DataFrame:
    """Every metric of every setting, overall and by tone, with interval, counts and the published value where there is one."""
    rows = []
    for setting in settings:

        def metric(run: Run, weights):
            return run_metrics(run.labels, run.predicted, run.probability, run.tones, weights, options.calibration_bins)

        found = bootstrap.replicates(setting, metric)
        for (name, group), (by_run, replicates) in found.items():
            row = {**heading(setting), "metric": name, "group": group, **figure(bootstrap.estimate(by_run, replicates))}
            row["undefined_runs"] = int((~np.isfinite(by_run)).sum())
            row["std_runs"] = (
                round(float(by_run.std(ddof=1)), 6) if len(by_run) > 1 and np.isfinite(by_run).all() else None
            )
            row.update(counts(setting.runs, group))
            row.update(wilson(name, row, options.confidence))
            row["published"] = published_for(setting, name, group, options.published)
            rows.append(row)
        flips = np.asarray([eom_under_one_flip(run) for run in setting.runs])
        for name, column in (("eom_lowest_under_one_flip", 1), ("eom_highest_under_one_flip", 2)):
            value = float(flips[:, column].mean()) if np.isfinite(flips).all() else float("nan")
            row = {**heading(setting), "metric": name, "group": "all", **figure(Estimate(value, value, value, 0.0))}
            rows.append({**row, "low": None, "high": None, **counts(setting.runs, "all")})
    return pd.DataFrame(rows)


def by_tone_frame(metrics: pd.DataFrame) -> pd.DataFrame:
    """The rows of `metrics_frame` that belong to a tone, one line per setting and tone, with value, low and high per metric."""
    rows = []
    keys = ["split", "regime", "method", "group"]
    for key, part in metrics[metrics["group"].isin(TONES)].groupby(keys, sort=False):
        row = dict(zip(keys, key, strict=True))
        first = part.iloc[0]
        row.update(
            {
                name: first[name]
                for name in part.columns
                if name.startswith("images") or name in ("runs", "marks", "real_used", "real_beyond")
            }
        )
        for line in part.itertuples(index=False):
            row.update({line.metric: line.value, f"{line.metric}_low": line.low, f"{line.metric}_high": line.high})
        rows.append(row)
    return pd.DataFrame(rows).rename(columns={"group": "tone"})


def rarity_of(count: int, options: FairnessSettings) -> str:
    """common, rare or very rare, by the number of real images of the concept."""
    return RARITIES[0] if count > options.common_above else RARITIES[1] if count >= options.rare_from else RARITIES[2]


def by_rarity_frame(settings: Sequence[Setting], bootstrap: Bootstrap, options: FairnessSettings) -> pd.DataFrame:
    """Metrics by rarity of the disease, overall and by tone; groups without an image are listed as undefined."""
    rows = []
    for setting in settings:

        def metric(run: Run, weights):
            sizes = run.record["concept_images"][options.rarity_counts]
            rarity = np.asarray([rarity_of(sizes.get(name, 0), options) for name in run.images["concept"]])
            found = {}
            for name in RARITIES:
                here = rarity == name
                part = (run.labels[here], run.predicted[here], run.probability[here], run.tones[here])
                values = run_metrics(*part, weights[:, here], options.calibration_bins)
                for metric_name in ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc"):
                    for group in ("all", *TONES):
                        if (metric_name, group) in values:
                            found[metric_name, group, name] = values[metric_name, group]
                for group in ("all", *TONES):
                    tone = np.ones(len(here), bool) if group == "all" else run.tones == TONES.index(group)
                    found["images", group, name] = np.full(len(weights), float((here & tone).sum()))
            return found

        found = bootstrap.replicates(setting, metric)
        for (name, group, rarity), (by_run, replicates) in found.items():
            if name == "images":
                continue
            row = {**heading(setting), "rarity": rarity, "metric": name, "group": group}
            row.update(figure(bootstrap.estimate(by_run, replicates)))
            row["images"] = int(round(found["images", group, rarity][0].mean()))
            published = published_for(setting, name, rarity, options.published) if group == "all" else None
            rows.append({**row, "published": published})
    return pd.DataFrame(rows)


def by_disease_frame(settings: Sequence[Setting], options: FairnessSettings) -> pd.DataFrame:
    """Accuracy by disease with its Wilson interval (test images only: seeds are averaged, not counted as images)."""
    rows = []
    for setting in settings:
        tallies: dict[str, list[float]] = {}
        splits = {run.record["split"] for run in setting.runs}
        for run in setting.runs:
            sharing = sum(other.record["split"] == run.record["split"] for other in setting.runs)
            right = run.labels == run.predicted
            for concept in sorted(set(run.images["concept"])):
                here = (run.images["concept"] == concept).to_numpy()
                tally = tallies.setdefault(concept, [0.0, 0.0, 0.0])
                tally[0] += here.sum() / sharing
                tally[1] += right[here].sum() / sharing
                tally[2] += (run.labels[here] == 1).sum() / sharing
        sizes = setting.runs[0].record["concept_images"][options.rarity_counts]
        for concept, (images, right, positive) in sorted(tallies.items()):
            interval = binomtest(round(right), round(images)).proportion_ci(options.confidence, method="wilson")
            row = {**heading(setting), "concept": concept, "rarity": rarity_of(sizes.get(concept, 0), options)}
            row.update(images=round(images), correct=round(right, 3), accuracy=round(right / images, 6))
            row.update(low=round(interval.low, 6), high=round(interval.high, 6), splits=len(splits))
            if len(setting.runs[0].classes) == 2:
                row["images_positive"] = round(positive)
            rows.append(row)
    return pd.DataFrame(rows)
