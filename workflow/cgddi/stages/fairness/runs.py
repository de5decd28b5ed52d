"""Read predictions and the records beside them, and gather runs into settings (split, regime, method)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cgddi.core.bootstrap import Run, Setting
from cgddi.core.errors import InvalidInput, Problem, UserError
from cgddi.core.images import TONES

COLUMNS = ("image_id", "cohort", "concept", "tone", "malignant", "probability", "predicted")


def read_run(path: str | Path) -> Run:
    """One predictions.csv with its record.json.

    Raises:
        UserError: the record is missing or the file is not a table.
        InvalidInput: a column is missing; a prediction is NaN or out of range; an image stands twice; an unknown tone or class.
    """
    path = Path(path)
    beside = path.with_name("record.json")
    try:
        record = json.loads(beside.read_text(encoding="ascii"))
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: predictions or the record beside them cannot be read ({error}). Run classify again."
        ) from error
    classes = list(record["classes"])
    binary = record["task"] == "malignancy"
    extra = () if binary else ("label", *(f"p:{name}" for name in classes))
    absent = [name for name in (*COLUMNS, *extra) if name not in table.columns]
    if absent:
        raise InvalidInput([Problem(str(path), f"no column {absent[0]}", "Run classify again.", row=1)])
    if table.empty:
        raise UserError(f"{path}: no predictions. Run classify again.")
    table = table.assign(_line=np.arange(2, len(table) + 2)).sort_values("image_id", ignore_index=True)
    names = {"false": 0, "true": 1} if binary else {name: place for place, name in enumerate(classes)}
    label_column = "malignant" if binary else "label"
    problems = _problems(path, table, names, label_column, binary, classes)
    if problems:
        raise InvalidInput(problems)
    if binary:
        positive = table["probability"].astype(float).to_numpy()
        probability = np.stack([1 - positive, positive], axis=1)
    else:
        probability = table[[f"p:{name}" for name in classes]].astype(float).to_numpy()
    return Run(
        str(path),
        record,
        table[["image_id", "cohort", "concept", "tone"]],
        table[label_column].str.lower().map(names).to_numpy() if binary else table[label_column].map(names).to_numpy(),
        table["predicted"].str.lower().map(names).to_numpy() if binary else table["predicted"].map(names).to_numpy(),
        probability,
        table["tone"].map({tone: place for place, tone in enumerate(TONES)}).to_numpy(),
    )


def _problems(path, table, names, label_column, binary, classes) -> list[Problem]:
    found = []

    def add(mask, column, message, remedy):
        for line, value in zip(table["_line"][mask], table[column][mask], strict=True):
            found.append(Problem(str(path), message, remedy, int(line), column, value))

    numbers = ["probability"] if binary else ["probability", *(f"p:{name}" for name in classes)]
    for column in numbers:
        values = pd.to_numeric(table[column], errors="coerce")
        add(~values.between(0, 1), column, "not a probability (NaN or outside 0..1)", "Train this classifier again.")
    for column in (label_column, "predicted"):
        values = table[column].str.lower() if binary else table[column]
        add(~values.isin(names), column, f"not one of {', '.join(names)}", "Run classify again.")
    add(~table["tone"].isin(TONES), "tone", f"not one of {', '.join(TONES)}", "Run classify again.")
    add(table["image_id"].duplicated(), "image_id", "image stands twice", "Run classify again.")
    return found


def gather(runs: Sequence[Run], families: dict[str, Sequence[str]] | None = None) -> list[Setting]:
    """Settings in the order split, regime, method; each family of splits adds settings of its own.

    Raises:
        UserError: runs of one setting disagree on test images, labels, classes or selection, or a seed stands twice.
    """
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        key = (run.record["split"], run.record["regime"], run.record["method"])
        groups.setdefault(key, []).append(run)
        for family, splits in (families or {}).items():
            if run.record["split"] in splits:
                groups.setdefault((family, *key[1:]), []).append(run)
    found = []
    for key in sorted(groups):
        members = sorted(groups[key], key=lambda run: (run.record["split"], run.seed))
        _agree(members)
        found.append(Setting(*key, tuple(members)))
    return found


def _agree(runs: list[Run]) -> None:
    first: dict[str, Run] = {}
    for run in runs:
        other = first.setdefault(run.record["split"], run)
        same = list(run.images["image_id"]) == list(other.images["image_id"]) and np.array_equal(
            run.labels, other.labels
        )
        if not same or run.classes != runs[0].classes:
            raise UserError(
                f"{run.path} and {other.path}: runs of one setting differ in test images or classes. Run classify again."
            )
        if run.record["selection"] != runs[0].record["selection"]:
            raise UserError(
                f"{run.path} and {runs[0].path}: runs of one setting chose their epochs differently. Run classify again."
            )
    seen = [(run.record["split"], run.seed) for run in runs]
    if len(set(seen)) < len(seen):
        raise UserError(f"{runs[0].path}: a seed of this setting stands twice among the predictions.")
