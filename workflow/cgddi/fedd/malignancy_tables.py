"""Long tables of the classifiers: accuracy by block and timestep, the block chosen on validation, and metrics by tone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cgddi.core.bootstrap import Bootstrap, Estimate, Run, Setting
from cgddi.core.images import TONES
from cgddi.core.metrics import area_under_curve, ratio, run_metrics
from cgddi.fedd.iou_tables import Context
from cgddi.fedd.published import published_columns
from cgddi.fedd.study_runs import FEDD, Predictions

METRICS = ("auc", "f1", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "ece")
CLASSES = ("benign", "malignant")


def as_run(predictions: Predictions, role: str) -> Run:
    """Predictions of one role as a run of the fairness stage, whose metrics and bootstrap then apply."""
    table = predictions.tables[role]
    chance = table["probability"].to_numpy()
    record = {"split": f"fedd {role}", "classes": CLASSES, "run_seed": predictions.seed}
    return Run(
        path=f"{predictions.model}, {role}",
        record=record,
        images=table[["image_id", "tone"]],
        labels=table["labels"].to_numpy(),
        predicted=(chance > predictions.threshold).astype(int),
        probability=np.stack([1 - chance, chance], axis=1),
        tones=table["tones"].to_numpy(),
    )


def setting_of(runs: Sequence[Predictions], role: str, name: str = "") -> Setting:
    """Seeds of one setting."""
    return Setting(f"fedd {role}", name, "", tuple(as_run(run, role) for run in runs))


def _groups(runs: Sequence[Predictions], *keys: str) -> dict[tuple, list[Predictions]]:
    found: dict[tuple, list[Predictions]] = {}
    for run in runs:
        found.setdefault(tuple(getattr(run, key) for key in keys), []).append(run)
    return found


def _accuracy(run: Run, weights: np.ndarray) -> dict[str, np.ndarray]:
    auc = area_under_curve(run.labels == 1, run.probability[:, 1], weights[:1])
    return {
        "accuracy": ratio(weights @ (run.predicted == run.labels), weights.sum(1)),
        "auc": np.broadcast_to(auc, len(weights)),
    }


def ablation_frame(predictions: Sequence[Predictions], context: Context, timestep: int) -> pd.DataFrame:
    """Accuracy of every probe on validation and test, mean over seeds.

    Per subset one block is `chosen`: that of the highest accuracy on VALIDATION at the segmenter's timestep (or, without such
    probes, at the nearest), ties by the higher AUC, then by the deeper block. The test images choose nothing.

    Args:
        predictions: all runs; baselines are left out. context: see there. timestep: of the segmenter.

    Returns:
        subset, per_tone, runs, timestep, block, images, malignant, chosen, and for validation and test accuracy, low, high, auc.
    """
    rows = []
    for (subset, step, block), runs in _groups(
        [run for run in predictions if run.model == FEDD], "subset", "timestep", "block"
    ).items():
        row = context.head(FEDD, "", subset, len(runs)) | {"timestep": step, "block": block}
        for role in ("validation", "test"):
            setting = setting_of(runs, role)
            found = context.bootstrap.replicates(setting, _accuracy)
            estimate = context.bootstrap.estimate(*found["accuracy"])
            row |= {f"{role}_images": len(setting.runs[0].labels)}
            row |= {f"{role}_malignant": int(setting.runs[0].labels.sum())}
            row |= {role: estimate.value, f"{role}_low": estimate.low, f"{role}_high": estimate.high}
            row[f"{role}_auc"] = float(found["auc"][0].mean())
        rows.append(row)
    if not rows:
        return pd.DataFrame()
    frame = pd.DataFrame(rows).drop(columns=["model", "variant"])
    frame["rank"] = frame["subset"].map(context.rank)
    frame = frame.sort_values(["rank", "timestep", "block"], ignore_index=True).drop(columns="rank")
    frame["chosen"] = False
    for _, part in frame.groupby("subset", sort=False):
        distance = (part["timestep"] - timestep).abs()
        near = part[distance == distance.min()]
        best = near.sort_values(["validation", "validation_auc", "block"], ascending=[False, False, True]).index[0]
        frame.loc[best, "chosen"] = True
    return frame


def chosen_settings(
    predictions: Sequence[Predictions], ablation: pd.DataFrame, context: Context
) -> list[tuple[str, str, list[Predictions]]]:
    """(model, subset, runs): the chosen probe of each subset, then the baselines, by size of the subset."""
    picked = set()
    if len(ablation):
        cells = ablation[ablation["chosen"]]
        picked = set(zip(cells["subset"], cells["timestep"], cells["block"], strict=True))
    wanted = [r for r in predictions if r.model != FEDD or (r.subset, r.timestep, r.block) in picked]
    groups = _groups(wanted, "model", "subset")
    order = sorted(groups, key=lambda key: (key[0] != FEDD, key[0], context.rank(key[1])))
    return [(model, subset, groups[model, subset]) for model, subset in order]


def classification_frame(settings: Sequence[tuple[str, str, list[Predictions]]], context: Context) -> pd.DataFrame:
    """AUC, F1 and the like of the chosen probes and the baselines on the test images, overall and by tone."""
    rows = []
    for model, subset, runs in settings:
        setting = setting_of(runs, "test")

        def metric(run: Run, weights: np.ndarray):
            return run_metrics(run.labels, run.predicted, run.probability, run.tones, weights)

        found = context.bootstrap.replicates(setting, metric)
        first = setting.runs[0]
        head = context.head(model, "", subset, len(runs))
        head |= {"block": runs[0].block, "timestep": runs[0].timestep, "threshold": runs[0].threshold}
        for name in METRICS:
            for tone in ("all", *TONES):
                here = np.ones(len(first.labels), bool) if tone == "all" else first.tones == TONES.index(tone)
                row = head | {"metric": name, "tone": tone, **columns(context.bootstrap, *found[name, tone])}
                row |= {"images": int(here.sum()), "malignant": int(first.labels[here].sum())}
                rows.append(row | published_columns("classification", row, name, context.cohort, context.datasets))
    return pd.DataFrame(rows)


def columns(bootstrap: Bootstrap, by_run: np.ndarray, replicates: np.ndarray) -> dict[str, float]:
    """value, low, high and the share of undefined replicates."""
    estimate: Estimate = bootstrap.estimate(by_run, replicates)
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "undefined_replicates": estimate.undefined,
    }
