"""Read predictions and the records beside them, and gather runs into settings (split, regime, method)."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgddi.core.bootstrap import Run, Setting
from cgddi.core.errors import InvalidInput, Problem, UserError, refuse
from cgddi.core.images import TONES

COLUMNS = ("image_id", "cohort", "concept", "tone", "malignant", "probability", "predicted")
AGAIN = "Run classify again."


def read_run(path: str | Path, labels: Mapping[str, Mapping[str, Any]] | None = None) -> Run:
    """One predictions.csv with its record.json.

    Args:
        labels: image id -> concept, tone, malignant of test photos, for predictions that do not tell them.

    Raises:
        UserError: the record is missing or the file is not a table.
        InvalidInput: a column is missing; a prediction is NaN or out of range; an image stands twice; an unknown tone or class.
    """
    path = Path(path)
    try:
        record = json.loads(path.with_name("record.json").read_text(encoding="ascii"))
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: predictions or the record beside them cannot be read ({error}). {AGAIN}") from error
    if labels and "tone" not in table.columns:
        table, record = _labelled(str(path), table, record, labels)
    binary = record["task"] == "malignancy"
    chances = ["probability"] if binary else [f"p:{name}" for name in record["classes"]]
    label = "malignant" if binary else "label"
    absent = [name for name in (*COLUMNS, label, *chances) if name not in table.columns]
    if absent:
        raise InvalidInput([Problem(str(path), f"no column {absent[0]}", AGAIN, row=1)])
    if table.empty:
        raise UserError(f"{path}: no predictions. {AGAIN}")
    table = table.assign(_line=np.arange(2, len(table) + 2)).sort_values("image_id", ignore_index=True)
    if binary:
        table = table.assign(malignant=table["malignant"].str.lower(), predicted=table["predicted"].str.lower())
    places = {name: place for place, name in enumerate(["false", "true"] if binary else record["classes"])}
    refuse(_problems(str(path), table, places, label, {*chances, "probability"}))
    probability = table[chances].astype(float).to_numpy()
    return Run(
        path=str(path),
        record=record,
        images=table[["image_id", "cohort", "concept", "tone"]],
        labels=table[label].map(places).to_numpy(),
        predicted=table["predicted"].map(places).to_numpy(),
        probability=np.hstack([1 - probability, probability]) if binary else probability,
        tones=table["tone"].map(TONES.index).to_numpy(),
    )


def _labelled(
    path: str, table: pd.DataFrame, record: dict[str, Any], labels: Mapping[str, Mapping[str, Any]]
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Predictions with their photos' labels, and the record with the concepts of the test photos counted. For malignancy, photos of
    unknown malignancy are left out."""
    strange = table["image_id"][~table["image_id"].isin(list(labels))]
    if len(strange):
        raise UserError(f"{path}: nothing is known of test image {strange.iloc[0]}. {AGAIN}")
    told = [labels[image] for image in table["image_id"]]
    for name in ("concept", "tone"):
        table[name] = [of[name] for of in told]
    table["malignant"] = [{True: "true", False: "false", None: ""}[of["malignant"]] for of in told]
    sizes = record["concept_images"]
    every = dict(sorted((Counter(sizes["all"]) + Counter(table["concept"])).items()))
    record = record | {"concept_images": sizes | {"all": every}}
    if record["task"] == "malignancy":
        return table[table["malignant"] != ""], record
    parts = record["spec"]["settings"]["partition"] if record["task"] == "partition" else {}
    table["label"] = [parts.get(concept, concept) for concept in table["concept"]]
    return table, record


def _problems(
    path: str, table: pd.DataFrame, places: Mapping[str, int], label: str, chances: set[str]
) -> list[Problem]:
    found = []

    def add(wrong: pd.Series, column: str, message: str, remedy: str = AGAIN) -> None:
        for line, value in zip(table["_line"][wrong], table[column][wrong], strict=True):
            found.append(Problem(path, message, remedy, int(line), column, value))

    for column in sorted(chances):
        values = pd.to_numeric(table[column], errors="coerce")
        add(~values.between(0, 1), column, "not a probability (NaN or outside 0..1)", "Train this classifier again.")
    for column in (label, "predicted"):
        add(~table[column].isin(list(places)), column, f"not one of {', '.join(places)}")
    add(~table["tone"].isin(TONES), "tone", f"not one of {', '.join(TONES)}")
    add(table["image_id"].duplicated(), "image_id", "image stands twice")
    return found


def gather(runs: Sequence[Run], families: Mapping[str, Sequence[str]] | None = None) -> list[Setting]:
    """Settings in the order split, regime, method; each family of splits adds settings of its own.

    Raises:
        UserError: runs of one setting disagree on test images, labels, classes or selection, or a seed stands twice.
    """
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        split, *rest = (run.record[key] for key in ("split", "regime", "method"))
        for name in (split, *(family for family, splits in (families or {}).items() if split in splits)):
            groups.setdefault((name, *rest), []).append(run)
    found = []
    for key in sorted(groups):
        members = sorted(groups[key], key=lambda run: (run.record["split"], run.seed))
        _check_agreement(members)
        found.append(Setting(*key, tuple(members)))
    return found


def _check_agreement(runs: list[Run]) -> None:
    first: dict[str, Run] = {}
    for run in runs:
        other = first.setdefault(run.record["split"], run)
        same = list(run.images["image_id"]) == list(other.images["image_id"])
        if not (same and np.array_equal(run.labels, other.labels) and run.classes == runs[0].classes):
            raise UserError(
                f"{run.path} and {other.path}: runs of one setting differ in test images or classes. {AGAIN}"
            )
        if run.record["selection"] != runs[0].record["selection"]:
            raise UserError(
                f"{run.path} and {runs[0].path}: runs of one setting chose their epochs differently. {AGAIN}"
            )
    seen = [(run.record["split"], run.seed) for run in runs]
    if len(set(seen)) < len(seen):
        raise UserError(f"{runs[0].path}: a seed of this setting stands twice among the predictions.")
