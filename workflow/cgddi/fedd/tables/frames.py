"""The study's runs as they lie on disk, and the long tables made of them."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgddi.core.answers import NONE, Answers, interval_of
from cgddi.core.bootstrap import Bootstrap, Run, Setting
from cgddi.core.errors import UserError
from cgddi.core.images import TONES
from cgddi.core.metrics import run_metrics
from cgddi.fedd.iou import (
    GROUPS,
    Labels,
    MaskRun,
    compare_rows,
    gap_row,
    in_group,
    iou_rows,
    joined,
    read_counts,
    read_table,
    with_labels,
)
from cgddi.fedd.study import FURTHER, PREDICTION_COLUMNS

FEDD = "fedd"
"""What tables call the diffusion features' own models; baselines go by their network's name."""
METRICS = ("auc", "f1", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "ece")


# ---- runs ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyRun:
    """One trained network on its test images (a classifier: and on the validation images).

    Args:
        model: "fedd" or the network. variant: of a segmenter, the treatment of tones; "" for others. subset: its name.
        seed: the run's. folder: where it lies. results: role -> pixel counts, or probabilities of malignancy.
        timestep, block: of a probe. threshold: probability from which a classifier says malignant.
    """

    model: str
    variant: str
    subset: str
    seed: int
    folder: Path
    results: Mapping[str, MaskRun | Run]
    timestep: int | None = None
    block: int | None = None
    threshold: float = 0.5

    @property
    def segments(self) -> bool:
        """Whether it makes masks."""
        return isinstance(self.results["test"], MaskRun)


Groups = dict[tuple, list[StudyRun]]
"""Runs by some of their attributes; each group holds the seeds of one setting."""


def grouped(runs: Iterable[StudyRun], *names: str) -> Groups:
    """Runs by the named attributes."""
    groups: Groups = {}
    for run in runs:
        groups.setdefault(tuple(getattr(run, name) for name in names), []).append(run)
    return groups


def read_runs(folders: Iterable[str | Path], absent: str = "undefined", labels: Labels | None = None) -> list[StudyRun]:
    """Read run folders (or any file in them), in order: FEDD first, then by name, variant, subset and seed.

    Args:
        folders: of the runs. absent: IoU of a class in neither mask (`TablesSettings.absent_classes`). labels: see `with_labels`.

    Raises:
        UserError: a folder without a record, or with one of no run of the study, a table that its record does not name, or runs
            with other test images.
    """
    runs: list[StudyRun] = []
    for path in dict.fromkeys(Path(p) if Path(p).is_dir() else Path(p).parent for p in folders):
        record = _record(path)
        subset = str(record["subset"])
        if "variant" in record or record.get("task") == "segmentation":
            model = FEDD if "variant" in record else record["network"]
            test = {"test": read_counts(path / "test.csv", record, absent, labels)}
            if FURTHER in record.get("counts", {}):
                test[FURTHER] = joined(test["test"], read_counts(path / f"{FURTHER}.csv", record, absent, labels))
            runs.append(StudyRun(model, record.get("variant", ""), subset, int(record["run_seed"]), path, test))
        else:
            runs += _read_predictions(path, record, subset, labels)
    for kind in (True, False):
        first, *rest = [run for run in runs if run.segments == kind] or [None]
        for run in rest:
            if list(_images(run)) != list(_images(first)):
                raise UserError(f"{run.folder} and {first.folder}: other test images. Tabulate runs of one study only.")
    return sorted(runs, key=lambda run: (run.model != FEDD, run.model, run.variant, run.subset, run.seed))


def _images(run: StudyRun) -> Iterable[str]:
    test = run.results["test"]
    return test.images if run.segments else test.images["image_id"]


def _record(folder: Path) -> dict[str, Any]:
    path = folder / "record.json"
    try:
        record = json.loads(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}). Run the workflow again; it makes what is missing."
        ) from error
    known = "variant" in record or "timestep" in record or record.get("task") in ("segmentation", "classification")
    if "subset" not in record or not known:
        raise UserError(
            f"{path}: is the record of no segmenter, probe or baseline. Name folders of the study's runs only."
        )
    return record


def _read_predictions(folder: Path, record: Mapping[str, Any], subset: str, labels: Labels | None) -> list[StudyRun]:
    path = folder / "predictions.csv"
    table = with_labels(read_table(path, PREDICTION_COLUMNS, record), labels)
    table = table[table["malignant"] != ""].sort_values("image_id", kind="stable")
    threshold, timestep = float(record.get("threshold", 0.5)), record.get("timestep")
    runs = []
    for (block, seed), part in table.groupby(["block", "seed"], sort=False):
        results = {
            role: _classifier_run(str(path), role, rows, int(seed), threshold) for role, rows in part.groupby("role")
        }
        model = record["network"] if timestep is None else FEDD
        number = int(block) if block else None
        runs.append(StudyRun(model, "", subset, int(seed), folder, results, timestep, number, threshold))
    return runs


def _classifier_run(path: str, role: str, rows: pd.DataFrame, seed: int, threshold: float) -> Run:
    """Predictions of one role as the metrics and the bootstrap take them."""
    chance = rows["probability"].to_numpy(float)
    return Run(
        path=path,
        record={"split": f"fedd {role}", "classes": ("benign", "malignant"), "run_seed": seed},
        images=rows[["image_id", "tone"]].assign(concept=""),
        labels=(rows["malignant"] == "true").to_numpy(int),
        predicted=(chance > threshold).astype(int),
        probability=np.stack([1 - chance, chance], axis=1),
        tones=rows["tone"].map(TONES.index).to_numpy(),
    )


def setting_of(runs: Sequence[StudyRun], role: str = "test") -> Setting:
    """Seeds of one classifier's setting."""
    return Setting(f"fedd {role}", "", "", tuple(run.results[role] for run in runs))


# ---- tables ----------------------------------------------------------------------------------------------------------


@cache
def _published_figures() -> dict[tuple[str, ...], Mapping[str, str]]:
    """(table, model, subset, metric, tone) -> row of published.csv, transcribed from FEDD (MICCAI 2023)."""
    with open(Path(__file__).with_name("published.csv"), newline="", encoding="utf-8") as handle:
        rows = list(csv.DictReader(handle))
    return {tuple(row[key] for key in ("table", "model", "subset", "metric", "tone")): row for row in rows}


@dataclass(frozen=True)
class Context:
    """What the tables need beside the runs.

    Args:
        cohort: of the study. per_tone: subset -> training photos per tone, by size. bootstrap: shared by all tables, so that
            differences are paired. datasets: cohort -> published data set.
    """

    cohort: str
    per_tone: Mapping[str, int]
    bootstrap: Bootstrap
    datasets: Mapping[str, str]

    def head(self, model: str, variant: str, subset: str, runs: int) -> dict[str, Any]:
        """The columns that name a setting."""
        size = self.per_tone.get(subset)
        return {"model": model, "variant": variant, "subset": subset, "per_tone": size, "runs": runs}

    def rank(self, subset: str) -> int:
        """Place of a subset by size."""
        return list(self.per_tone).index(subset) if subset in self.per_tone else len(self.per_tone)

    def published(self, table: str, row: Mapping[str, Any], metric: str) -> dict[str, Any]:
        """Columns published, published_data and published_same of a row; empty where nothing was published.

        published_same is true where data and number of training photos are the published ones too; otherwise the figure was
        reached on other data and is only for orientation.

        Args:
            table: "iou" or "classification". metric: mean, lesion, auc, f1, ...
            row: model, variant, subset, per_tone and tone of ours. A segmenter other than the plain one has no published figure.
        """
        figure = _published_figures().get((table, row["model"], str(row["subset"]), metric, row["tone"]))
        if figure is None or row["variant"] not in ("plain", ""):
            return {"published": None, "published_data": "", "published_same": None}
        same = self.datasets.get(self.cohort) == figure["data"] and int(figure["per_tone"]) == row["per_tone"]
        return {"published": float(figure["value"]), "published_data": figure["data"], "published_same": same}


def segmenters_in_order(runs: Iterable[StudyRun], context: Context) -> Groups:
    """Segmenters by (model, variant, subset): FEDD first (plain before its variants), then U-Nets by name, by subset."""

    def key(item):
        model, variant, subset = item[0]
        return model != FEDD, variant != "plain", variant, model, context.rank(subset)

    groups = grouped((run for run in runs if run.segments), "model", "variant", "subset")
    return dict(sorted(groups.items(), key=key))


def _counts(runs: Sequence[StudyRun], role: str = "test") -> list[MaskRun]:
    return [run.results[role] for run in runs]


def iou_frame(groups: Groups, context: Context) -> pd.DataFrame:
    """IoU by setting, class (and "mean") and tone (and "all"), with interval, counts and the published value."""
    rows = []
    for setting, runs in groups.items():
        for row in iou_rows(_counts(runs), context.bootstrap):
            row = context.head(*setting, len(runs)) | row
            rows.append(row | context.published("iou", row, row["class"]))
    return pd.DataFrame(rows)


def gap_frame(groups: Groups, context: Context) -> pd.DataFrame:
    """Lesion IoU of light minus that of dark skin, by setting, with interval, and the published gap where there is one."""
    rows = []
    for setting, runs in groups.items():
        row = context.head(*setting, len(runs)) | gap_row(_counts(runs), context.bootstrap)
        light, dark = (context.published("iou", row | {"tone": tone}, "lesion") for tone in ("light", "dark"))
        if light["published"] is not None and dark["published"] is not None:
            light["published"] = round(light["published"] - dark["published"], 6)
        rows.append(row | (light if dark["published"] is not None else dark))
    return pd.DataFrame(rows)


def paired_frame(groups: Groups, context: Context) -> pd.DataFrame:
    """Differences on the same test images: each other treatment of tones, and each U-Net, against FEDD plain."""
    rows = []
    for (model, variant, subset), runs in groups.items():
        plain = groups.get((FEDD, "plain", subset))
        if plain is None or runs is plain:
            continue
        for row in compare_rows(_counts(plain), _counts(runs), context.bootstrap):
            names = {"first": FEDD + " plain", "second": f"{model} {variant}".strip()}
            values = {"first_value": row.pop("first"), "second_value": row.pop("second")}
            rows.append({"subset": subset, **names, "runs": len(runs), **row, **values})
    return pd.DataFrame(rows)


def classified(setting: Setting, metrics: Iterable[str], confidence: float) -> dict[tuple[str, str], dict[str, float]]:
    """(metric, "all" or tone) -> value, low, high: the mean over a classifier's seeds with the interval of the fairness tables."""
    answers, ones = Answers.of(setting), np.ones((1, len(setting.runs[0].labels)))
    by_run = [run_metrics(r.labels, r.predicted, r.probability, r.tones, ones) for r in setting.runs]
    found = {}
    for metric, group in ((metric, group) for metric in metrics for group in GROUPS):
        values = np.array([run[metric, group][0] for run in by_run])
        low, high = interval_of(answers, metric, group, values, confidence) if np.isfinite(values).all() else NONE
        found[metric, group] = {"value": float(values.mean()), "low": low, "high": high}
    return found


def ablation_frame(runs: Iterable[StudyRun], context: Context, timestep: int) -> pd.DataFrame:
    """Accuracy of every probe on validation and test, mean over seeds.

    Per subset one block is `chosen`: that of the highest accuracy on VALIDATION at the segmenter's timestep (or, without such
    probes, at the nearest), ties by the higher AUC, then by the deeper block. The test images choose nothing.

    Returns:
        subset, per_tone, runs, timestep, block, and for validation and test images, malignant, accuracy, low, high, auc; chosen.
    """
    rows = []
    probes = grouped((run for run in runs if run.block is not None), "subset", "timestep", "block")
    for (subset, step, block), members in sorted(probes.items(), key=lambda x: (context.rank(x[0][0]), *x[0][1:])):
        row: dict[str, Any] = {"subset": subset, "per_tone": context.per_tone.get(subset), "runs": len(members)}
        row |= {"timestep": step, "block": block}
        for role in ("validation", "test"):
            setting = setting_of(members, role)
            figures = classified(setting, ("accuracy", "auc"), context.bootstrap.confidence)
            accuracy = figures["accuracy", "all"]
            labels = setting.runs[0].labels
            row |= {f"{role}_images": len(labels), f"{role}_malignant": int(labels.sum())}
            row |= {role: accuracy["value"], f"{role}_low": accuracy["low"], f"{role}_high": accuracy["high"]}
            row[f"{role}_auc"] = figures["auc", "all"]["value"]
        rows.append(row | {"chosen": False})
    frame = pd.DataFrame(rows)
    for _, part in frame.groupby("subset", sort=False) if rows else ():
        distance = (part["timestep"] - timestep).abs()
        near = part[distance == distance.min()]
        best = near.sort_values(["validation", "validation_auc", "block"], ascending=[False, False, True]).index[0]
        frame.loc[best, "chosen"] = True
    return frame


def classifiers_in_order(runs: Iterable[StudyRun], ablation: pd.DataFrame, context: Context) -> Groups:
    """Classifiers by (model, subset): the chosen probe of each subset, then the baselines, by size of the subset."""
    chosen = ablation[ablation["chosen"]] if len(ablation) else ablation
    cells = {(row.subset, row.timestep, row.block) for row in chosen.itertuples()}
    wanted = [r for r in runs if not r.segments and (r.block is None or (r.subset, r.timestep, r.block) in cells)]
    groups = grouped(wanted, "model", "subset")
    return dict(sorted(groups.items(), key=lambda x: (x[0][0] != FEDD, x[0][0], context.rank(x[0][1]))))


def classification_frame(groups: Groups, context: Context) -> pd.DataFrame:
    """AUC, F1 and the like of the chosen probes and the baselines on the test images, overall and by tone."""

    rows = []
    for (model, subset), members in groups.items():
        setting = setting_of(members)
        figures, first = classified(setting, METRICS, context.bootstrap.confidence), setting.runs[0]
        head = context.head(model, "", subset, len(members))
        head |= {name: getattr(members[0], name) for name in ("block", "timestep", "threshold")}
        for name in METRICS:
            for tone in GROUPS:
                here = in_group(first.tones, tone)
                row = head | {"metric": name, "tone": tone, **figures[name, tone]}
                row |= {"images": int(here.sum()), "malignant": int(first.labels[here].sum())}
                rows.append(row | context.published("classification", row, name))
    return pd.DataFrame(rows)


def further_frame(segmenters: Groups, classifiers: Groups, context: Context) -> pd.DataFrame:
    """The larger tests, on the photos that the study leaves: masks of those and of the small test, malignancy of those.

    Returns:
        Rows with model, subset, metric (mean or lesion IoU, accuracy, auc), tone, value with its interval, images, and for FEDD
        over_next_best: value minus the best of the other models on the same photos, beside the published one.
    """
    rows = []
    for (model, variant, subset), runs in segmenters.items():
        if variant in ("plain", "") and all(FURTHER in run.results for run in runs):
            for row in iou_rows(_counts(runs, FURTHER), context.bootstrap):
                if row["class"] in ("mean", "lesion"):
                    about = context.head(model, variant, subset, len(runs)) | {"metric": f"IoU, {row['class']}"}
                    rows.append(about | {"value": row["iou"]} | {k: row[k] for k in ("tone", "low", "high", "images")})

    for (model, subset), runs in classifiers.items():
        if all(FURTHER in run.results for run in runs):
            setting = setting_of(runs, FURTHER)
            figures = classified(setting, ("accuracy", "auc"), context.bootstrap.confidence)
            for (name, tone), figure in figures.items():
                about = context.head(model, "", subset, len(runs)) | {"metric": name, "tone": tone}
                here = {"images": int(in_group(setting.runs[0].tones, tone).sum())}
                rows.append(about | figure | here)
    frame = pd.DataFrame(rows)
    for place, row in frame.iterrows():
        keys = ["subset", "metric", "tone"]
        others = frame[(frame["model"] != FEDD) & (frame[keys] == row[keys]).all(axis=1)]
        if row["model"] == FEDD and len(others):
            frame.loc[place, "over_next_best"] = row["value"] - others["value"].max()
            known = context.published("further", row, row["metric"])
            for name, value in known.items():
                frame.loc[place, name] = value
    return frame
