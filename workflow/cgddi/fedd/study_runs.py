"""The study's runs as they lie on disk: segmenters, probes and baselines, told apart by their records."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cgddi.core.errors import InvalidInput, Problem, UserError
from cgddi.core.images import TONES
from cgddi.fedd.iou import MaskRun, read_counts
from cgddi.fedd.results import PREDICTION_COLUMNS

FEDD = "fedd"
"""What tables call the diffusion features' own models; baselines go by their network's name."""


@dataclass(frozen=True)
class Segmentation:
    """One segmentation run.

    Args:
        model: "fedd" or the encoder. variant: treatment of tones ("" for a U-Net). subset: its name. seed: the run's.
        folder: where it lies. record: its record. test: pixel counts of its test images.
    """

    model: str
    variant: str
    subset: str
    seed: int
    folder: Path
    record: dict[str, Any]
    test: MaskRun


@dataclass(frozen=True)
class Predictions:
    """Malignancy probabilities of one network: a probe of one block at one timestep, or a baseline.

    Args:
        model: "fedd" or the network. subset: its name. timestep, block: of a probe, None otherwise. seed: the run's.
        threshold: probability from which it says malignant. record: its record.
        tables: role -> image_id, tones (index into TONES), labels (0, 1), probability, ordered by image.
    """

    model: str
    subset: str
    timestep: int | None
    block: int | None
    seed: int
    threshold: float
    record: dict[str, Any]
    tables: dict[str, pd.DataFrame]


@dataclass(frozen=True)
class StudyRuns:
    """All runs, in order."""

    segmentation: tuple[Segmentation, ...]
    predictions: tuple[Predictions, ...]


def read_runs(folders: Iterable[str | Path]) -> StudyRuns:
    """Read run folders (or any file in them).

    Raises:
        UserError: a folder without a record, or with one of no run of the study. InvalidInput: a table that cannot be right.
    """
    masks: list[Segmentation] = []
    chances: list[Predictions] = []
    for path in dict.fromkeys(Path(p) if Path(p).is_dir() else Path(p).parent for p in folders):
        record = _record(path)
        subset = str(record["subset"])
        if "variant" in record or record.get("task") == "segmentation":
            model, variant = (FEDD, record["variant"]) if "variant" in record else (record["network"], "")
            counts = read_counts(path / "test.csv")
            masks.append(Segmentation(model, variant, subset, int(record["run_seed"]), path, record, counts))
        else:
            chances += _predictions(path, record, subset)
    masks.sort(key=lambda run: (run.model != FEDD, run.model, run.variant, run.subset, run.seed))
    return StudyRuns(tuple(masks), tuple(chances))


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


def _predictions(folder: Path, record: dict[str, Any], subset: str) -> list[Predictions]:
    path = folder / "predictions.csv"
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}). Run the probe or baseline again.") from error
    absent = [name for name in PREDICTION_COLUMNS if name not in table.columns]
    if absent or table.empty:
        raise UserError(f"{path}: {'no column ' + absent[0] if absent else 'no predictions'}. Run it again.")
    problems = _problems(str(path), table)
    if problems:
        raise InvalidInput(problems)
    table = table[table["malignant"] != ""]
    table = table.assign(
        probability=table["probability"].astype(float),
        labels=(table["malignant"] == "true").astype(int),
        tones=table["tone"].map({tone: place for place, tone in enumerate(TONES)}),
    )
    probe = "timestep" in record
    found = []
    for (block, seed), part in table.groupby(["block", "seed"], sort=False):
        roles = {role: rows.sort_values("image_id", ignore_index=True) for role, rows in part.groupby("role")}
        found.append(
            Predictions(
                model=FEDD if probe else record["network"],
                subset=subset,
                timestep=int(record["timestep"]) if probe else None,
                block=int(block) if probe else None,
                seed=int(seed),
                threshold=float(record.get("threshold", 0.5)),
                record=record,
                tables=roles,
            )
        )
    return found


def _problems(path: str, table: pd.DataFrame) -> list[Problem]:
    chance = pd.to_numeric(table["probability"], errors="coerce")
    again = "Run the probe or baseline again."
    checks = (
        ("probability", ~chance.between(0, 1), "not a probability (NaN or outside 0..1)"),
        ("tone", ~table["tone"].isin(TONES), f"not one of {', '.join(TONES)}"),
        ("malignant", ~table["malignant"].isin(("true", "false", "")), "not true or false"),
        ("role", ~table["role"].isin(("validation", "test")), "not validation or test"),
        ("image_id", table.duplicated(["image_id", "role", "block", "seed"]), "image stands twice"),
    )
    return [
        Problem(path, message, again, int(place) + 2, column, table[column].iloc[place])
        for column, wrong, message in checks
        for place in np.flatnonzero(wrong.to_numpy())
    ]


def by_setting(runs: Sequence[Segmentation]) -> dict[tuple[str, str, str], list[Segmentation]]:
    """Runs by (model, variant, subset); each holds its seeds."""
    groups: dict[tuple[str, str, str], list[Segmentation]] = {}
    for run in runs:
        groups.setdefault((run.model, run.variant, run.subset), []).append(run)
    return groups
