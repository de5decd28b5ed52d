"""The long tables: one row per figure, with its interval, what chance alone gives, the counts it rests on and the published
value."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cgddi.core.answers import NONE, Answers, interval_of, photo_keys
from cgddi.core.bootstrap import Run, Setting
from cgddi.core.images import TONES
from cgddi.core.intervals import share_interval
from cgddi.core.inversion import Disparity
from cgddi.core.metrics import confusion, equality_of_opportunity, run_metrics
from cgddi.core.seeds import seed_for
from cgddi.stages.fairness.estimates import disparities_of
from cgddi.stages.fairness.published import columns, published_for
from cgddi.stages.fairness.settings import FairnessSettings

COMMON_ABOVE, RARE_FROM = 10, 3
"""A disease with more real images than the first is common, with as many as the second rare, below very rare (thesis)."""
RARITIES = ("common", "rare", "very rare")
BY_RARITY = ("accuracy", "balanced_accuracy", "sensitivity", "specificity", "auc")
SUMMARY_METRICS = ("balanced_accuracy", "auc", "sensitivity", "specificity", "pqd", "dpm", "eom")
"""Figures over all test images whose differences between regimes are shown; accuracy is shown by group too."""


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


def figure(value: float, interval: tuple[float, float]) -> dict[str, Any]:
    """The columns of a figure; "undefined" where it does not exist, empty where it has no interval."""
    if not np.isfinite(value):
        return dict.fromkeys(("value", "low", "high"), "undefined")
    low, high = (round(float(end), 6) if np.isfinite(end) else None for end in interval)
    return {"value": round(float(value), 6), "low": low, "high": high}


def chance_columns(found: Disparity | None) -> dict[str, float]:
    """The columns of a figure that compares tones: its median-unbiased value, and what equal tones would show by chance."""
    if found is None:
        return {}
    names = {"unbiased": found.middle, "chance": found.chance}
    names |= {"chance_low": found.chance_low, "chance_high": found.chance_high}
    return {name: round(value, 6) for name, value in names.items() if np.isfinite(value)}


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


def by_run(runs: Sequence[Run], answers: Answers | None = None) -> dict[tuple[str, str], np.ndarray]:
    """(metric, group) -> values of the runs (R,), over all their test images or over those to which `answers` is cut."""
    found: dict[tuple[str, str], list[float]] = {}
    for number, run in enumerate(runs):
        if answers is None:
            values = all_metrics(run, np.ones((1, len(run.labels))))
        else:
            here = ~np.isnan(answers.predicted[number])
            part = (answers.labels[here], answers.predicted[number, here].astype(int))
            part += (answers.probability[number, here], answers.tones[here])
            values = run_metrics(*part, np.ones((1, int(here.sum()))))
        for key, value in values.items():
            found.setdefault(key, []).append(float(value[0]))
    return {key: np.asarray(values) for key, values in found.items()}


def metrics_table(settings: Sequence[Setting], options: FairnessSettings, seed: int) -> pd.DataFrame:
    """Every metric of every setting, overall and by tone, with interval, chance, counts and the published value if there is one."""
    rows = []
    for setting in settings:
        answers = Answers.of(setting)
        draws = seed_for(seed, "test sets")
        compared = disparities_of(answers, options.confidence, options.test_sets, draws)
        for (name, group), values in by_run(setting.runs).items():
            found = compared.get(name)
            interval = NONE if found is None else (found.low, found.high)
            if np.isfinite(values).all() and name not in compared:
                interval = interval_of(answers, name, group, values, options.confidence)
            row = {**heading(setting), "metric": name, "group": group, **figure(values.mean(), interval)}
            row |= dict.fromkeys(("unbiased", "chance", "chance_low", "chance_high")) | chance_columns(found)
            row["undefined_runs"] = int((~np.isfinite(values)).sum())
            spread = float(values.std(ddof=1)) if len(values) > 1 else float("nan")
            row["std_runs"] = round(spread, 6) if np.isfinite(spread) else None
            row.update(counts(setting.runs, group))
            rows.append({**row, **columns(published_for(setting, name, group, options.published))})
        flips = np.asarray([eom_under_one_flip(run) for run in setting.runs]).mean(0)
        for name, value in zip(("eom_lowest_under_one_flip", "eom_highest_under_one_flip"), flips[1:], strict=True):
            row = {**heading(setting), "metric": name, "group": "all", **figure(value, NONE)}
            rows.append({**row, **counts(setting.runs, "all")})
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


def by_rarity_table(settings: Sequence[Setting], options: FairnessSettings) -> pd.DataFrame:
    """Metrics by rarity of the disease, overall and by tone; groups without an image are listed as undefined."""
    rows = []
    for setting in settings:
        whole = Answers.of(setting)
        of_run = [dict(zip(photo_keys(run), rarities(run, options), strict=True)) for run in setting.runs]
        rarity = np.array([[own.get(key, "") for key in whole.photos] for own in of_run])
        for name in RARITIES:
            answers = whole.within(rarity == name)
            values = by_run(setting.runs, answers)
            for metric in BY_RARITY:
                for group in ("all", *TONES):
                    if (metric, group) not in values:
                        continue
                    mine, interval = values[metric, group], NONE
                    if np.isfinite(mine).all():
                        interval = interval_of(answers, metric, group, mine, options.confidence)
                    row = {**heading(setting), "rarity": name, "metric": metric, "group": group}
                    row.update(figure(mine.mean(), interval))
                    tested = ~np.isnan(answers.predicted[:, answers.group(group)])
                    row["images"] = int(round(tested.sum(1).mean()))
                    published = published_for(setting, metric, name, options.published) if group == "all" else None
                    rows.append({**row, **columns(published)})
    return pd.DataFrame(rows)


def by_disease_table(settings: Sequence[Setting], options: FairnessSettings) -> pd.DataFrame:
    """Accuracy by disease with its interval; `images` adds up the splits, not the seeds."""
    rows = []
    for setting in settings:
        answers = Answers.of(setting)
        splits = [run.record["split"] for run in setting.runs]
        of_photo = np.array([concept for _, concept, *_ in answers.photos])
        sizes = setting.runs[0].record["concept_images"][options.rarity_counts]
        weight = np.array([1 / splits.count(split) for split in splits])
        for concept in sorted(set(of_photo)):
            here = of_photo == concept
            asked = ~np.isnan(answers.right[:, here]).all(1)
            right = answers.right[np.ix_(asked, here)]
            images, correct = (np.nansum(part, 1) @ weight[asked] for part in (~np.isnan(right), right))
            units = None if answers.units is None else tuple(np.array(answers.units)[asked])
            row = {**heading(setting), "concept": concept, "rarity": rarity_of(sizes.get(concept, 0))}
            row |= {"images": round(images), "correct": round(float(correct), 3)}
            row["accuracy"] = round(float(correct / images), 6)
            low, high = share_interval(right, options.confidence, answers.alike, units, answers.between("accuracy"))
            row |= {"low": round(low, 6), "high": round(high, 6), "splits": len(set(splits))}
            if answers.classes == 2:
                positive = ~np.isnan(right) & (answers.labels[here] == 1)
                row["images_positive"] = round(float(positive.sum(1) @ weight[asked]))
            rows.append(row)
    return pd.DataFrame(rows)
